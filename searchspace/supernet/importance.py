"""Importance of heads and hidden units, whose order determines the prefixes of a nested network.

    s_u = E_x E_g (sum_t a_ut dg(y(x)) / da_ut)^2       a_u: the output of unit u to the projection that follows

To first order g changes by that sum when unit u is removed. For logits g = log p(c), with c drawn from the network's
p(. | x): the diagonal of the Fisher information; for other outputs g = n . y, n standard normal: the squared norm of
the change of y. Units are those of the FFNs, and whole heads; a key/value group's score is the sum over its heads, a
residual channel's the sum over the outputs of the blocks.

Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771; the ordering before elastic
training is that of OFA, Cai et al., arXiv:1908.09791. Shapes: B batch, T time, F units, G groups, R heads per group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from searchspace.model import Model
from searchspace.primitives.axes import Axis, AxisModule, declared_tensors
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import NONE, ArchSpec

OUT_PROJECTIONS = {"mixer": "o_proj", "ffn": "down_proj"}
CHANNELS = "channels"
Saliency = dict[str, Tensor]  # `blocks.i.ffn` [F], `blocks.i.mixer` [G, R], CHANNELS [D]


@dataclass(frozen=True)
class Place:
    """A sublayer whose units can be ordered: its name, the projection that reads them and their axis."""

    name: str
    module: nn.Module
    projection: nn.Module
    axis: Axis


def orderable(model: Model) -> Iterator[Place]:
    """Yield FFNs with hidden units F and mixers with heads G, R; other operators keep their order."""
    for name, module in model.named_modules():
        projection = getattr(module, OUT_PROJECTIONS.get(name.rpartition(".")[2], ""), None)
        if isinstance(projection, AxisModule) and "weight" in projection.declared:
            declared = projection.declared["weight"]
            if declared.names[-1] in ("F", "G*R*K"):
                yield Place(name, module, projection, declared.axes[-1])


def saliency(model: Model, batches: Iterable[tuple[Tensor, Tokens]], seed: int = 0) -> Saliency:
    """Return the importance of hidden units [F], heads [G, R] and channels [D], over batches of inputs [B, T].

    Channels are only scored in a network of one width.
    """
    generator = torch.Generator().manual_seed(seed)
    places = list(orderable(model))
    found = {place.name: torch.zeros(place.axis.sizes[:2]) for place in places}
    blocks = list(_blocks(model))
    if blocks:
        found[CHANNELS] = torch.zeros(model.arch.d_model)
    is_language = model.arch.task != "embedding"
    for inputs, tokens in batches:
        with _handed(places) as handed, _handed_on(blocks) as stream:
            output = model(inputs, tokens)[0]
            wanted = _of_a_class if is_language else _of_a_direction
            goal = wanted(output.detach(), generator)
            if tokens.valid is not None and goal.dim() == 3:
                goal = goal * tokens.valid.unsqueeze(-1)
            flat = [*(a for runs in handed.values() for a in runs), *stream]
            gradients = iter(torch.autograd.grad(output, flat, goal))
        for place in places:
            # runs of a repeated stage count as one change of the unit
            change = sum((a.detach() * next(gradients)).sum(1) for a in handed[place.name])  # [B, units]
            assert isinstance(change, Tensor)
            split = change.unflatten(-1, place.axis.sizes)
            found[place.name] += (split.sum(-1) if split.dim() == 4 else split).square().sum(0).float().cpu()
        for x in stream:
            found[CHANNELS] += (x.detach() * next(gradients)).sum(1).square().sum(0).float().cpu()
    return found


def is_as_wide_everywhere(arch: ArchSpec) -> bool:
    """Return whether one residual stream leads from the stem to the head."""
    return all(s.d_model == arch.d_model and s.enter == s.leave == NONE for s in arch.stages)


def _blocks(model: Model) -> Iterator[nn.Module]:
    if is_as_wide_everywhere(model.arch):
        for name in sorted(model.part_names):
            if name.startswith("blocks."):
                yield model.part(name)


@contextmanager
def _handed_on(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Record the output [B, T, D] of each run of a block."""
    found: list[Tensor] = []
    with ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(block.register_forward_hook(lambda _, x, result: found.append(result[0])))
        yield found


@contextmanager
def _handed(places: Sequence[Place]) -> Iterator[dict[str, list[Tensor]]]:
    """Record the input [B, T, units] of each projection, run by run, with gradients."""
    found: dict[str, list[Tensor]] = {place.name: [] for place in places}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            a = given[0] if given[0].requires_grad else given[0].detach().requires_grad_()
            found[name].append(a)
            return (a, *given[1:])

        return hook

    with ExitStack() as hooks:
        for place in places:
            hooks.enter_context(place.projection.register_forward_pre_hook(watch(place.name)))
        yield found


def _of_a_class(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient of log p of one class drawn per prediction; logits and result [B, T, W] or [B, W].

    Drawn by comparing the cumulated p with a uniform number: `torch.multinomial` needs a random number per class.
    """
    p = F.softmax(logits.float(), -1)
    passed = p.cumsum(-1)
    uniform = torch.rand(p.shape[:-1], generator=generator).to(p.device).unsqueeze(-1)
    drawn = torch.searchsorted(passed, uniform * passed[..., -1:], right=True).clamp_max(p.shape[-1] - 1)
    return p.neg_().scatter_add_(-1, drawn, torch.ones_like(uniform)).to(logits)


def _of_a_direction(output: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient of the product with a random direction; output and result [B, D] or [B, T, D]."""
    return torch.randn(output.shape, generator=generator).to(output)


@torch.no_grad()
def ordered(model: Model, importance: Mapping[str, Tensor], in_place: bool = False) -> dict[str, Tensor]:
    """Return the model's tensors [...] with important units first: the same function, with prefixes as good slices.

    `importance` is the result of `saliency`; sublayers and channels that it does not name keep their order. Outputs as
    wide as the network have the order of its channels. With `in_place` the model's own tensors are reordered and
    returned, without memory for a second copy.
    """
    tensors = {name: t.detach() if in_place else t.detach().clone() for name, t in model.state_dict().items()}
    if CHANNELS in importance:
        order = importance[CHANNELS].argsort(descending=True, stable=True)
        for name, declared in declared_tensors(model):
            for dim, axis in enumerate(declared.axes):
                if axis == Axis.of(D=len(order)):
                    tensors[name].copy_(tensors[name].index_select(dim, order))
    for place in orderable(model):
        if place.name not in importance:
            continue
        scores = importance[place.name]
        for name, declared in declared_tensors(place.module, prefix=place.name):
            for dim, axis in enumerate(declared.axes):
                tensors[name].copy_(_permuted(tensors[name], dim, axis, scores))
    return tensors


def _permuted(tensor: Tensor, dim: int, axis: Axis, scores: Tensor) -> Tensor:
    """Sort the entries of one dimension by descending score of their unit, or of their group and head."""
    names = [name for name, _ in axis.factors]
    if names == ["F"] and scores.dim() == 1:
        return tensor.index_select(dim, scores.argsort(descending=True, stable=True))
    if scores.dim() != 2 or "G" not in names:
        return tensor
    groups = scores.sum(1).argsort(descending=True, stable=True)
    places = torch.arange(axis.size).view(axis.sizes).movedim(names.index("G"), 0)[groups]
    if "R" in names:
        heads = scores[groups].argsort(dim=1, descending=True, stable=True)  # [G, R]
        at = 1 + [n for n in names if n != "G"].index("R")
        places = torch.stack([p.index_select(at - 1, h) for p, h in zip(places, heads, strict=True)])
    return tensor.index_select(dim, places.movedim(0, names.index("G")).flatten())
