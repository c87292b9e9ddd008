"""Importance of the structures of a trained network: three scores, [size] for each sublayer by its name.

hessian      sum over batches of (sum over the structure's weights of w dL/dw)^2: the squared first-order change of the
             loss, the second-order one under the empirical Fisher approximation (Yang et al., "NViT",
             arXiv:2110.04869)
trajectory   sum over later blocks of MD(F_j, F_j without) + T^2 KL(z, z without): a forward pass for each structure,
             no gradients (Khaki and Plataniotis, "OPTIN", arXiv:2403.17921; MD and KL as in
             proxies/optin_trajectory.py). FFN units are removed in blocks of neighbours. Unlike the original, it has
             no factors by index and by layer, and does not rescale KL by powers of ten
magnitude    sum over the structure's weights of w^2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from nas.blocks.structures import Structures
from nas.tasks.base import Batch, loss
from proxies.optin_trajectory import divergence, manifold_distance
from searchspace.model import Model
from searchspace.primitives.axes import declared_tensors
from searchspace.primitives.context import Tokens

Importance = dict[str, Tensor]


def hessian(model: Model, found: Sequence[Structures], batches: Sequence[Batch]) -> Importance:
    total = {s.name: torch.zeros(s.size) for s in found}
    weights = {n: p.requires_grad_() for n, p in model.named_parameters()}
    for batch in batches:
        logits = model(batch.inputs, Tokens(valid=batch.valid))[0]
        value = loss(logits, batch.targets, batch.valid, batch.rows)
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        changes = {
            name: w.detach() * g
            for (name, w), g in zip(weights.items(), gradients, strict=True)
            if g is not None
        }
        for s in found:
            total[s.name] += _sums(s, changes).square()
    model.requires_grad_(False)
    return total


def magnitude(model: Model, found: Sequence[Structures], batches: Sequence[Batch]) -> Importance:
    squares = {name: p.detach().square() for name, p in model.named_parameters()}
    return {s.name: _sums(s, squares) for s in found}


def _sums(s: Structures, tensors: dict[str, Tensor]) -> Tensor:
    """Sums [size] over all of the sublayer's tensors, `[...]` each, that have the structures as an axis."""
    total = torch.zeros(s.size)
    for name, declared in declared_tensors(s.place.module, prefix=s.name):
        part = s.of(tensors[name], declared) if name in tensors else None
        if part is not None:
            total += part
    return total


@torch.no_grad()
def trajectory(model: Model, found: Sequence[Structures], batches: Sequence[Batch]) -> Importance:
    """The trajectory score, computed on the first batch only, as published."""
    batch, last = batches[0], max(s.layer for s in found)
    features, logits = _run(model, batch)
    importance = {}
    for s in found:
        scores = torch.zeros(s.size)
        for start in range(0, s.size, s.step):
            members = slice(start, min(s.size, start + s.step))
            others, without = _run(model, batch, s, members)
            later = [j for j in features if j > s.layer or s.layer == last == j]
            moved = sum(manifold_distance(features[j], others[j]) for j in later)
            scores[members] = (moved + divergence(logits, without)) / (members.stop - members.start)
        importance[s.name] = scores
    return importance


def _run(
    model: Model, batch: Batch, without: Structures | None = None, members: slice = slice(0)
) -> tuple[dict[int, Tensor], Tensor]:
    """The output [B, T, D] of each block and the logits [B, T, C], with some structures of a sublayer set to 0."""
    features: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        return lambda _, inputs, output: features.__setitem__(layer, output[0])

    def silence(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert without is not None
        sizes = without.place.axis.sizes
        dim = {"d_ff": 0, "num_groups": 0, "heads_per_group": 1}[without.item]
        split = given[0].reshape(*given[0].shape[:-1], *sizes).movedim(dim - len(sizes), 0).clone()
        split[members] = 0
        return (split.movedim(0, dim - len(sizes)).flatten(-len(sizes)), *given[1:])

    with ExitStack() as hooks:
        for layer in range(len(model.arch.blocks)):
            if f"blocks.{layer}" in model.part_names:
                hooks.enter_context(model.part(f"blocks.{layer}").register_forward_hook(keep(layer)))
        if without is not None:
            hooks.enter_context(without.place.projection.register_forward_pre_hook(silence))
        return features, model(batch.inputs, Tokens(valid=batch.valid))[0]
