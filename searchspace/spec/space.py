"""What can be searched: a resolved space with every choice written out. Loaded from TOML by `searchspace.load`.

Choice      ordered values of one hyperparameter
Candidate   an operator with a choice (or a nested slot) for each of its items
Slot        the candidates for one place of a block; with `shared` every block has the same one
QuantSpace  formats by name for linear roles that are decided together, or for the state
BlockSpace  the slots of one block            StageSpace  depth, width and transitions of a run of blocks
Constraint  a hard bound on a quantity that is known before training
SpaceSpec   the whole space, with its fixed parts (task, stem, head)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from searchspace.spec.arch import OpSpec, Scalar
from searchspace.spec.reading import bounds


@dataclass(frozen=True)
class Choice:
    """At least one value, ordered so that neighbours are similar. Raises ValueError for none or repeated values."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a choice needs at least one value, got none")
        if len(set(map(repr, self.values))) != len(self.values):
            raise ValueError(f"a choice names each value once, got {list(self.values)}")


Domain = Union[Choice, "Slot"]


@dataclass(frozen=True)
class Candidate:
    op: str
    items: tuple[tuple[str, Domain], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"op": self.op} | {n: _domain_to_json(d) for n, d in self.items}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        items = {n: _domain_from_json(d) for n, d in data.items() if n != "op"}
        return cls(data["op"], tuple(sorted(items.items())))


@dataclass(frozen=True)
class Slot:
    candidates: tuple[Candidate, ...]
    shared: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a slot without candidates."""
        if not self.candidates:
            raise ValueError("a slot needs at least one candidate, got none")

    def to_json(self) -> dict[str, Any]:
        return {"candidates": [c.to_json() for c in self.candidates], "shared": self.shared}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Slot:
        return cls(tuple(Candidate.from_json(c) for c in data["candidates"]), data.get("shared", False))

    @classmethod
    def fixed(cls, op: str) -> Slot:
        return cls((Candidate(op),))


NOTHING = Slot.fixed("none")
MAPS = ("q", "k", "v", "o", "up", "gate", "down")  # roles of a pretrained network's linear maps


@dataclass(frozen=True)
class QuantSpace:
    """One format decision. It exists where the block's mixer or ffn is one of those named here."""

    roles: tuple[str, ...]
    formats: Choice
    mixers: tuple[str, ...] = ()
    ffns: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        places = {"mixers": list(self.mixers), "ffns": list(self.ffns)}
        return {"roles": list(self.roles), "formats": list(self.formats.values)} | places

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantSpace:
        roles, mixers, ffns = (tuple(data[name]) for name in ("roles", "mixers", "ffns"))
        return cls(roles, Choice(tuple(data["formats"])), mixers, ffns)


@dataclass(frozen=True)
class BlockSpace:
    mixer: Slot
    ffn: Slot
    norm: Slot
    projection: Slot
    placement: Choice
    placement_shared: bool = False
    quant: tuple[tuple[str, QuantSpace], ...] = ()

    def to_json(self) -> dict[str, Any]:
        slots = {n: getattr(self, n).to_json() for n in ("mixer", "ffn", "norm", "projection")}
        return slots | {
            "placement": list(self.placement.values),
            "placement_shared": self.placement_shared,
            "quant": {name: decision.to_json() for name, decision in self.quant},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockSpace:
        quant = {name: QuantSpace.from_json(d) for name, d in data.get("quant", {}).items()}
        return cls(
            **{n: Slot.from_json(data[n]) for n in ("mixer", "ffn", "norm", "projection")},
            placement=Choice(tuple(data["placement"])),
            placement_shared=data.get("placement_shared", False),
            quant=tuple(sorted(quant.items())),
        )


@dataclass(frozen=True)
class StageSpace:
    """`blocks[:depth]` are used; a stage's width is that of the previous stage times `width_ratio`.

    If `optional`, each block may be left out, which is the only decision of a block whose slots are shared. Raises
    ValueError for a depth without as many blocks.
    """

    blocks: tuple[BlockSpace, ...]
    depth: Choice
    width_ratio: Choice = Choice((1,))
    enter: Slot = NOTHING
    leave: Slot = NOTHING
    repeats: Choice = Choice((1,))
    optional: bool = False

    def __post_init__(self) -> None:
        for depth in self.depth.values:
            if not isinstance(depth, int) or not 0 <= depth <= len(self.blocks):
                raise ValueError(f"a stage of {len(self.blocks)} blocks can't have depth {depth}")

    def to_json(self) -> dict[str, Any]:
        return {
            "blocks": [b.to_json() for b in self.blocks],
            "depth": list(self.depth.values),
            "width_ratio": list(self.width_ratio.values),
            "enter": self.enter.to_json(),
            "leave": self.leave.to_json(),
            "repeats": list(self.repeats.values),
        } | ({"optional": True} if self.optional else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StageSpace:
        return cls(
            blocks=tuple(BlockSpace.from_json(b) for b in data["blocks"]),
            depth=Choice(tuple(data["depth"])),
            width_ratio=Choice(tuple(data["width_ratio"])),
            enter=Slot.from_json(data["enter"]),
            leave=Slot.from_json(data["leave"]),
            repeats=Choice(tuple(data["repeats"])),
            optional=data.get("optional", False),
        )


@dataclass(frozen=True)
class Constraint:
    """`lower <= quantity <= upper`; None means no bound."""

    quantity: str
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        bounds(self.quantity, self.lower, self.upper)

    def violation(self, value: float) -> float:
        """Return how far `value` is outside the bounds, 0.0 inside."""
        below = self.lower - value if self.lower is not None else 0.0
        above = value - self.upper if self.upper is not None else 0.0
        return max(0.0, below, above)


@dataclass(frozen=True)
class SpaceSpec:
    name: str
    version: int
    task: str
    data: str
    stem: OpSpec
    head: OpSpec
    d_model: Choice
    stages: tuple[StageSpace, ...]
    position: Slot = NOTHING
    final_norm: Slot = NOTHING
    constraints: tuple[Constraint, ...] = ()
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "task": self.task,
            "data": self.data,
            "stem": self.stem.to_json(),
            "head": self.head.to_json(),
            "d_model": list(self.d_model.values),
            "stages": [s.to_json() for s in self.stages],
            "position": self.position.to_json(),
            "final_norm": self.final_norm.to_json(),
            "constraints": [vars(c) for c in self.constraints],
            "description": self.description,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SpaceSpec:
        return cls(
            name=data["name"],
            version=data["version"],
            task=data["task"],
            data=data["data"],
            stem=OpSpec.from_json(data["stem"]),
            head=OpSpec.from_json(data["head"]),
            d_model=Choice(tuple(data["d_model"])),
            stages=tuple(StageSpace.from_json(s) for s in data["stages"]),
            position=Slot.from_json(data["position"]),
            final_norm=Slot.from_json(data["final_norm"]),
            constraints=tuple(Constraint(**c) for c in data["constraints"]),
            description=data.get("description", ""),
        )


def _domain_to_json(domain: Domain) -> Any:
    return domain.to_json() if isinstance(domain, Slot) else list(domain.values)


def _domain_from_json(data: Any) -> Domain:
    return Slot.from_json(data) if isinstance(data, Mapping) else Choice(tuple(data))
