"""What pruning takes out of a trained network: hidden units of FFNs and heads of attention, each layer its own number.

Of attention with several key/value groups a structure is a group with all its heads, of attention with one group a
head. The residual width and the widths of heads stay: all layers share the one, rotary positions belong to the other.
Shapes: F units, G groups, R heads of a group; scores are [F] or [G, R], as `ordered` takes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas.errors import UsageError
from searchspace.model import Model
from searchspace.primitives.axes import Declared, declared_tensors
from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.supernet.importance import Place, orderable, ordered
from searchspace.supernet.slicing import take

STEPS = 32  # in which an FFN may shrink


@dataclass(frozen=True)
class Structures:
    """Those of one sublayer: `size` of them, taken out `step` at a time, of which one step always stays."""

    place: Place
    layer: int
    item: str
    size: int
    step: int

    @property
    def name(self) -> str:
        return self.place.name

    def of(self, tensor: Tensor, declared: Declared) -> Tensor | None:
        """The sum over each structure [size] of a tensor of the sublayer; None where it belongs to none of them."""
        factor = {"d_ff": "F", "num_groups": "G", "heads_per_group": "R"}[self.item]
        for dim, axis in enumerate(declared.axes):
            names = [name for name, _ in axis.factors]
            if factor in names:
                moved = tensor.movedim(dim, 0)
                split = moved.reshape(*axis.sizes, -1).movedim(names.index(factor), 0)
                return split.flatten(1).sum(1)
        return None

    def scores(self, importance: Tensor) -> Tensor:
        """importance [size] in the shape that orders the sublayer: of groups each head has its share."""
        if self.item == "d_ff":
            return importance
        G, R = self.place.axis.sizes[:2]
        return (importance / R)[:, None].expand(G, R) if self.item == "num_groups" else importance[None, :]

    def kept(self, count: int) -> int:
        return max(min(self.step, self.size), count)


def structures(model: Model) -> list[Structures]:
    """Of every sublayer that has some. Raises UsageError where none has, or where a stage is repeated."""
    found = []
    for place in orderable(model):
        layer, sizes = int(place.name.split(".")[1]), place.axis.sizes
        if place.axis.names == "F":
            found.append(Structures(place, layer, "d_ff", sizes[0], max(1, round(sizes[0] / STEPS))))
        else:
            item = "num_groups" if sizes[0] > 1 else "heads_per_group"
            found.append(Structures(place, layer, item, sizes[0] if sizes[0] > 1 else sizes[1], 1))
    if not found:
        raise UsageError("MODEL: it has no attention heads and no FFN units that could be taken out")
    return found


def sized(arch: ArchSpec, found: Sequence[Structures], counts: Mapping[str, int]) -> ArchSpec:
    """The architecture with these numbers of structures."""
    blocks = list(arch.blocks)
    for s in found:
        slot = s.name.rpartition(".")[2]
        op: OpSpec = getattr(blocks[s.layer], slot)
        smaller = OpSpec.of(op.op, **dict(op.items) | {s.item: counts[s.name]})
        blocks[s.layer] = replace(blocks[s.layer], **{slot: smaller})  # type: ignore[arg-type]
    return replace(arch, blocks=tuple(blocks))


@torch.no_grad()
def cut(
    model: Model, found: Sequence[Structures], importance: Mapping[str, Tensor], counts: Mapping[str, int]
) -> Model:
    """The network with the `counts` most important structures of each sublayer, with its own weights."""
    whole = dict(declared_tensors(model))
    tensors = ordered(model, {s.name: s.scores(importance[s.name]) for s in found})
    arch = sized(model.arch, found, counts)
    with torch.device("meta"):
        narrow = Model(arch)
    weights = {n: take(tensors[n], whole[n].axes, d.axes).contiguous() for n, d in declared_tensors(narrow)}
    return Model.from_weights(arch, weights, model.progress).requires_grad_(False).eval()


def full(found: Sequence[Structures]) -> dict[str, int]:
    return {s.name: s.size for s in found}


def lowest(importance: Tensor, kept: int, step: int) -> float:
    """What the next step takes away: the sum of the `step` least important of the `kept` most important."""
    ranked = importance.double().sort(descending=True).values
    return math.fsum(ranked[max(0, kept - step) : kept].tolist())
