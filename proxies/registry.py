"""Training-free scores by name, and one call that computes several of them for an architecture.

A proxy is a frozen `Proxy` entry in a module of this package, plus one line in `proxies.names`. A module that fails to
import raises, as does a duplicate name. A proxy that is undefined for a network scores NaN with a reason.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from proxies.batch import Batch
from proxies.names import PROXY_NAMES
from proxies.subject import Subject, Unscorable
from searchspace.spec.arch import ArchSpec
from searchspace.spec.reading import unknown

NEEDS = ("nothing", "batch")


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """One entry of the catalogue; `proxies.names` has its direction.

    needs    "batch" where the score uses examples, else "nothing"
    score    function of an untrained network; raises Unscorable where it is undefined
    """

    name: str
    paper: str
    needs: str
    score: Callable[[Subject], float]

    def __post_init__(self) -> None:
        if self.name not in PROXY_NAMES:
            raise ValueError(f"proxy {self.name!r} has no line in proxies/names.py")
        if self.needs not in NEEDS:
            raise ValueError(f"proxy {self.name}: unknown needs {self.needs!r}; known: {', '.join(NEEDS)}")

    @property
    def direction(self) -> str:
        return PROXY_NAMES[self.name].direction


@dataclass(frozen=True)
class Score:
    """`reason` says why the value is NaN. `ms` counts shared work once, for the first proxy that needs it."""

    value: float
    reason: str = ""
    ms: float = 0.0


@cache
def proxies() -> Mapping[str, Proxy]:
    """Return every proxy by name."""
    found: dict[str, Proxy] = {}
    package = importlib.import_module("proxies")
    for module in pkgutil.iter_modules(package.__path__):
        for entry in vars(importlib.import_module(f"proxies.{module.name}")).values():
            if isinstance(entry, Proxy):
                _add(found, entry)
    return MappingProxyType(found)


def _add(found: dict[str, Proxy], entry: Proxy) -> None:
    if entry.name in found:
        raise ValueError(f"two proxies are named {entry.name!r}")
    found[entry.name] = entry


def proxy(name: str) -> Proxy:
    """Return a proxy by name. Raises ValueError listing the known names."""
    if name not in proxies():
        raise ValueError(unknown(name, sorted(proxies()), "proxy"))
    return proxies()[name]


def score(names: Iterable[str], arch: ArchSpec, batch: Batch | None, seed: int) -> dict[str, Score]:
    """Return the scores of one network, initialised from `seed`, which runs on the batch's device.

    Raises ValueError for an unknown name, or where a proxy needs a batch and there is none.
    """
    return score_subject(names, Subject(arch, batch, seed))


def score_subject(names: Iterable[str], subject: Subject) -> dict[str, Score]:
    """Return the scores of a given network. Raises ValueError as `score` does."""
    entries = [proxy(name) for name in names]
    for entry in entries:
        if entry.needs == "batch" and subject.batch is None:
            raise ValueError(f"proxy {entry.name!r} needs a batch, got none")
    return {entry.name: _score_one(entry, subject) for entry in entries}


def _score_one(entry: Proxy, subject: Subject) -> Score:
    start = time.perf_counter()
    try:
        value, reason = entry.score(subject), ""
    except Unscorable as why:
        value, reason = math.nan, str(why)
    if not reason and not math.isfinite(value):
        value, reason = math.nan, f"the score is {value}"
    return Score(value, reason, 1e3 * (time.perf_counter() - start))
