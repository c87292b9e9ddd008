"""Scores of the registered proxies on the networks of a table, cached between runs."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from nas.home import home
from nas.truth.structure import BASELINES
from searchspace.spec.arch import ArchSpec

BATCH_SIZE = 16
SEED = 0
COLUMNS = ("arch_id", "proxy", "value", "reason", "ms")

OnNetwork = Callable[[int, int], None]  # scored networks, their total


@dataclass(frozen=True)
class Kept:
    """The score of a proxy on a network, the `reason` if it is nan, and the time of computing it."""

    value: float
    reason: str
    ms: float


def names() -> list[str]:
    """Every registered proxy that is no baseline."""
    from proxies.registry import proxies

    return sorted(set(proxies()) - set(BASELINES))


def scores(
    archs: Sequence[ArchSpec], wanted: Sequence[str], *, workers: int = 1, on_network: OnNetwork
) -> dict[str, list[Kept]]:
    """The scores of every network by proxy, signed so that higher is better; cached ones of the same code are reused.

    Raises ValueError naming an unknown proxy.
    """
    from proxies.registry import proxy

    signs = {name: 1.0 if proxy(name).direction == "maximize" else -1.0 for name in wanted}
    path = home() / "proxies" / f"{code_version()}-batch{BATCH_SIZE}-seed{SEED}.csv"
    known = _read(path)
    tasks = [(json.dumps(a.to_json()), [n for n in wanted if (a.id, n) not in known]) for a in archs]
    tasks = [(text, missing) for text, missing in tasks if missing]
    on_network(len(archs) - len(tasks), len(archs))
    for done, (arch_id, found) in enumerate(_computed(tasks, workers), 1):
        known |= {(arch_id, name): kept for name, kept in found.items()}
        _append(path, arch_id, found)
        on_network(len(archs) - len(tasks) + done, len(archs))
    return {
        name: [
            Kept(signs[name] * kept.value, kept.reason, kept.ms)
            for kept in (known[a.id, name] for a in archs)
        ]
        for name in wanted
    }


@cache
def code_version() -> str:
    """A hash of all code that scores depend on: the packages proxies and searchspace."""
    import proxies
    import searchspace

    folders = (Path(path) for path in chain(proxies.__path__, searchspace.__path__))
    files = (file for folder in folders for file in sorted(folder.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


Task = tuple[str, list[str]]


def _computed(tasks: list[Task], workers: int) -> Iterator[tuple[str, dict[str, Kept]]]:
    if workers <= 1 or len(tasks) <= 1:
        yield from map(_score, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_one_thread) as pool:
        yield from pool.map(_score, tasks)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _score(task: Task) -> tuple[str, dict[str, Kept]]:
    from proxies.batch import random_batch
    from proxies.registry import score

    text, missing = task
    arch = ArchSpec.from_json(json.loads(text))
    found = score(missing, arch, random_batch(arch, BATCH_SIZE, SEED), SEED)
    return arch.id, {name: Kept(s.value, s.reason, s.ms) for name, s in found.items()}


def _read(path: Path) -> dict[tuple[str, str], Kept]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["ms"]]  # a kill may have truncated the last line
    return {
        (r["arch_id"], r["proxy"]): Kept(float(r["value"] or math.nan), r["reason"], float(r["ms"]))
        for r in rows
    }


def _append(path: Path, arch_id: str, found: dict[str, Kept]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerows(
            (arch_id, name, repr(kept.value), kept.reason, f"{kept.ms:.3f}") for name, kept in found.items()
        )
