"""Lists of spaces, operators, searchers, objectives and devices, for a process that does not import torch.

Lists that need torch come from the child process `nas.service.describe`: once, and for devices again whenever a
profile has changed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import closing
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas.errors import NasError, UsageError
from nas.evaluation.quantities import QUANTITIES
from nas.home import home
from nas.presentation.study import to_json
from nas.request.recipe import Recipe
from nas.searchers.registry import SEARCHERS, why_not
from nas.workers.child import Child
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec

_asking = threading.Lock()


class Unlisted(NasError):
    """A list can't be made, for example because of an operator of an installed package."""


class Catalogue:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._devices: list[dict[str, Any]] = []
        self._profiles: set[tuple[Path, float]] | None = None

    def spaces(self) -> dict[str, dict[str, Any]]:
        """By name: {space: the resolved space, architectures: their number, recipe: its default recipe}."""
        with _asking:
            return _builtin_spaces()

    def recipe(self, name: str) -> Recipe:
        """The default recipe of a known space."""
        return Recipe.from_json(self.spaces()[name]["recipe"])

    def space(self, name: str) -> SpaceSpec:
        """The space with this name. Raises UsageError for an unknown one."""
        found = self.spaces().get(name)
        if found is None:
            raise UsageError(f"unknown space {name[:80]!r}; known: {', '.join(self.spaces())}")
        return SpaceSpec.from_json(found["space"])

    def devices(self) -> list[dict[str, Any]]:
        with self._lock:
            seen = {(path, path.stat().st_mtime) for path in (home() / "profiles").glob("*/profile.toml")}
            if seen != self._profiles:
                rows = _ask("devices")
                self._devices = [{n: v for n, v in row.items() if n != "folder"} for row in rows]
                self._profiles = seen
            return self._devices


@cache
def _builtin_spaces() -> dict[str, dict[str, Any]]:
    return {entry["space"]["name"]: entry for entry in _ask("spaces")}


@cache
def _listed() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(
        files("searchspace").joinpath("operators.json").read_text(encoding="utf-8")
    )
    return [{n: v for n, v in entry.items() if n != "file"} for entry in listed]


@lru_cache(maxsize=32)
def operators(slot: str | None = None) -> bytes:
    """The operators of a slot (None: all) as JSON."""
    return to_json([entry for entry in _listed() if slot in (None, entry["slot"])])


def objectives() -> list[dict[str, Any]]:
    shown = ("name", "direction", "unit", "source", "about")
    return [{n: getattr(q, n) for n in shown} for q in QUANTITIES.values()]


def searchers() -> list[dict[str, str]]:
    return [{"name": name, "about": entry.about} for name, entry in SEARCHERS.items()]


def why_not_searched(name: str, space: SpaceSpec, ladder: Sequence[str], num_objectives: int) -> str | None:
    """Why a study can't have this searcher with this ladder; None if it can."""
    if name == "halving" and not ladder:
        return "needs a ladder of cheaper judgements, such as quarter"
    if name not in ("guided", "halving") and ladder:
        return f"does not support the ladder {', '.join(ladder)}; use guided or halving"
    return why_not(name, Encoding(space), num_objectives)


def _ask(what: str) -> Any:
    with closing(Child("nas.service.describe", [what], {})) as child:
        if child.wait() != 0:
            raise Unlisted(f"{what} can't be listed: {child.reason()}")
        return json.loads(child.output())
