"""Narrows a space to the choices that --keep names, in every block and stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nas.errors import UsageError
from searchspace.spec.space import BlockSpace, Choice, Slot, SpaceSpec

KINDS = ("d_model", "depth", "mixer", "ffn", "norm", "placement")
Kept = Mapping[str, Sequence[Any]]


def narrowed(space: SpaceSpec, keep: Kept) -> SpaceSpec:
    """The space with only the choices in `keep`, {kind: choices}; other kinds are unchanged.

    Raises UsageError for an unknown kind or choice, and if a block or stage would have no choice left.
    """
    for kind, values in keep.items():
        if kind not in KINDS:
            raise UsageError(f"--keep: unknown {kind[:40]!r}; known: {', '.join(KINDS)}")
        known = offered(space)[kind]
        for value in values:
            if value not in known:
                raise UsageError(f"--keep: {kind} has no {value!r}; known: {', '.join(map(str, known))}")
    stages = tuple(
        replace(
            stage,
            blocks=tuple(_block(block, keep) for block in stage.blocks),
            depth=_choice("depth", stage.depth, keep),
        )
        for stage in space.stages
    )
    return replace(space, stages=stages, d_model=_choice("d_model", space.d_model, keep))


def offered(space: SpaceSpec) -> dict[str, list[Any]]:
    """The choices of each kind that the space offers, in its order and without duplicates."""
    blocks = [block for stage in space.stages for block in stage.blocks]
    found: dict[str, list[Any]] = {"d_model": list(space.d_model.values)}
    found["depth"] = _distinct(v for stage in space.stages for v in stage.depth.values)
    for slot in ("mixer", "ffn", "norm"):
        found[slot] = _distinct(c.op for block in blocks for c in getattr(block, slot).candidates)
    found["placement"] = _distinct(v for block in blocks for v in block.placement.values)
    return found


def _block(block: BlockSpace, keep: Kept) -> BlockSpace:
    return replace(
        block,
        mixer=_slot("mixer", block.mixer, keep),
        ffn=_slot("ffn", block.ffn, keep),
        norm=_slot("norm", block.norm, keep),
        placement=_choice("placement", block.placement, keep),
    )


def _slot(kind: str, slot: Slot, keep: Kept) -> Slot:
    if kind not in keep:
        return slot
    left = tuple(c for c in slot.candidates if c.op in keep[kind])
    return replace(slot, candidates=_some(kind, left))


def _choice(kind: str, choice: Choice, keep: Kept) -> Choice:
    if kind not in keep:
        return choice
    return Choice(_some(kind, tuple(v for v in choice.values if v in keep[kind])))


def _some(kind: str, left: tuple[Any, ...]) -> tuple[Any, ...]:
    if not left:
        raise UsageError(f"--keep: a block or stage would have no {kind} left; keep at least one for each")
    return left


def _distinct(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))
