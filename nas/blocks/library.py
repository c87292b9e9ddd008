"""A table of block scores: the loss caused by each alternative mixer or ffn of each layer, measured in the parent.

    loss(l, c) - loss(parent)      the parent with candidate c in layer l, weights inherited from the supernet

The predicted loss of a network is the parent's plus the sum of the scores of its replaced blocks. Bercovich et al.,
"Puzzle", arXiv:2411.19146; Gu et al., "Jet-Nemotron" (PostNAS), arXiv:2508.15884.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from nas.errors import ArtifactError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.files import put_text
from nas.setup.preparation import OnStep, Step
from searchspace.spec.arch import ArchSpec, OpSpec, Value
from searchspace.spec.space import Slot, SpaceSpec
from searchspace.validity import why_invalid

SCHEMA = 1
SLOTS = ("mixer", "ffn")
FILE = "library.json"
BATCHES = 2


@dataclass(frozen=True)
class Entry:
    """A candidate; `delta` is the loss in nats of the parent with it, minus the parent's."""

    layer: int
    slot: str
    spec: OpSpec
    delta: float


@dataclass(frozen=True)
class Library:
    """The table; `loss` is the parent's loss in nats on the batches that candidates were scored on."""

    parent: ArchSpec
    loss: float
    entries: tuple[Entry, ...]

    def groups(self) -> dict[tuple[int, str], list[Entry]]:
        """The candidates by layer and slot, including the parent's own."""
        found: dict[tuple[int, str], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((entry.layer, entry.slot), []).append(entry)
        return found

    def network(self, chosen: Sequence[Entry]) -> ArchSpec:
        """The parent with its blocks replaced by these candidates."""
        arch = self.parent
        for entry in chosen:
            arch = replaced(arch, entry.layer, entry.slot, entry.spec)
        return arch

    def delta(self, chosen: Sequence[Entry]) -> float:
        """The predicted loss in nats of the network of these candidates, minus the parent's."""
        return sum(entry.delta for entry in chosen)

    def to_json(self) -> dict[str, Any]:
        entries = [vars(e) | {"spec": e.spec.to_json()} for e in self.entries]
        return {"schema": SCHEMA, "parent": self.parent.to_json(), "loss": self.loss, "entries": entries}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Library:
        entries = [Entry(**{**e, "spec": OpSpec.from_json(e["spec"])}) for e in data["entries"]]
        return cls(ArchSpec.from_json(data["parent"]), float(data["loss"]), tuple(entries))


def library_key(supernet: str, parent: ArchSpec, space: SpaceSpec, batch_size: int) -> str:
    """Content id of a table: 16 hexadecimal digits of the SHA-256 of its inputs."""
    made_from = [SCHEMA, supernet, parent.canonical, space.to_json(), BATCHES, batch_size]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def build_library(judged: InheritedQuality, space: SpaceSpec, parent: ArchSpec, on_step: OnStep) -> Library:
    """Score every valid candidate of every layer on training batches."""
    batches = judged.calibration[:BATCHES]
    loss = quality(judged.network(parent), batches)["loss"]
    wanted = list(candidates(space, parent))
    entries = []
    for done, (layer, slot, spec) in enumerate(wanted, start=1):
        arch = replaced(parent, layer, slot, spec)
        value = loss if arch == parent else quality(judged.network(arch), batches)["loss"]
        entries.append(Entry(layer, slot, spec, value - loss))
        on_step(Step("scoring blocks", done, len(wanted), f"layer {layer}: {spec.op}"))
    return Library(parent, loss, tuple(entries))


def candidates(space: SpaceSpec, parent: ArchSpec) -> Iterator[tuple[int, str, OpSpec]]:
    """Every valid (layer, slot, operator) that the space offers for the parent's active layers."""
    layers = [block for stage in space.stages for block in stage.blocks]
    for layer, block in enumerate(layers):
        if parent.blocks[layer].is_active:
            for slot in SLOTS:
                for spec in settings(getattr(block, slot)):
                    if why_invalid(replaced(parent, layer, slot, spec)) is None:
                        yield layer, slot, spec


def settings(slot: Slot) -> Iterator[OpSpec]:
    """Every operator of a slot with every combination of its settings."""
    for candidate in slot.candidates:
        domains: list[list[Value]] = [
            list(settings(d)) if isinstance(d, Slot) else list(d.values) for _, d in candidate.items
        ]
        for values in product(*domains):
            names = (name for name, _ in candidate.items)
            yield OpSpec(candidate.op, tuple(zip(names, values, strict=True)))


def replaced(arch: ArchSpec, layer: int, slot: str, spec: OpSpec) -> ArchSpec:
    """The architecture with one operator replaced; a block without mixer and ffn stays as an identity."""
    block = replace(arch.blocks[layer], **{slot: spec})  # type: ignore[arg-type]
    return replace(arch, blocks=(*arch.blocks[:layer], block, *arch.blocks[layer + 1 :]))


def write_library(library: Library, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    put_text(folder / FILE, json.dumps(library.to_json(), indent=1))


def read_library(folder: Path) -> Library:
    """The table in `folder`. Raises ArtifactError if its file is missing or damaged."""
    path = folder / FILE
    try:
        return Library.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); delete {folder} to score its blocks again"
        ) from error
