"""The structures that pruning removes from a trained network: FFN units and attention heads, per layer.

In attention with several key/value groups a structure is a group with all its heads, with one group it is a head. The
residual width stays, because all layers share it, and so do the widths of heads, because rotary positions depend on
them. Shapes: F units, G groups, R heads per group; scores are [F] or [G, R], as `ordered` takes them.
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

STEPS = 32  # steps in which an FFN can shrink


@dataclass(frozen=True)
class Structures:
    """The `size` structures of one sublayer, removed `step` at a time; the last step always stays."""

    place: Place
    layer: int
    item: str
    size: int
    step: int

    @property
    def name(self) -> str:
        return self.place.name

    def of(self, tensor: Tensor, declared: Declared) -> Tensor | None:
        """Sums [size] of a tensor [...] of the sublayer over each structure; None if no axis has the structures."""
        factor = {"d_ff": "F", "num_groups": "G", "heads_per_group": "R"}[self.item]
        for dim, axis in enumerate(declared.axes):
            names = [name for name, _ in axis.factors]
            if factor in names:
                moved = tensor.movedim(dim, 0)
                split = moved.reshape(*axis.sizes, -1).movedim(names.index(factor), 0)
                return split.flatten(1).sum(1)
        return None

    def scores(self, importance: Tensor) -> Tensor:
        """importance [size] in the shape that orders the sublayer, [F] or [G, R]; heads share that of their group."""
        if self.item == "d_ff":
            return importance
        G, R = self.place.axis.sizes[:2]
        return (importance / R)[:, None].expand(G, R) if self.item == "num_groups" else importance[None, :]

    def kept(self, count: int) -> int:
        return max(min(self.step, self.size), count)


def structures(model: Model) -> list[Structures]:
    """The structures of every sublayer that has some. Raises UsageError if there are none."""
    found = []
    for place in orderable(model):
        layer, sizes = int(place.name.split(".")[1]), place.axis.sizes
        if place.axis.names == "F":
            found.append(Structures(place, layer, "d_ff", sizes[0], max(1, round(sizes[0] / STEPS))))
        else:
            item = "num_groups" if sizes[0] > 1 else "heads_per_group"
            found.append(Structures(place, layer, item, sizes[0] if sizes[0] > 1 else sizes[1], 1))
    if not found:
        raise UsageError("MODEL: it has no attention heads and no FFN units that can be pruned")
    return found


def sized(arch: ArchSpec, found: Sequence[Structures], counts: Mapping[str, int]) -> ArchSpec:
    """The architecture with `counts` structures by sublayer."""
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
    """The network with the `counts` most important structures of each sublayer and its own weights.

    importance: [size] by sublayer.
    """
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
    """The importance that the next step removes: the sum of the `step` lowest of the `kept` highest, of [size]."""
    ranked = importance.double().sort(descending=True).values
    return math.fsum(ranked[max(0, kept - step) : kept].tolist())
