"""Attention transfer: each new mixer learns what the attention that it replaces computes, on the teacher's own inputs.

    output     |y - y*|^2 / |y*|^2 of the layer's outputs (LoLCATs)
    weights    sum_j A_ij log (A_ij / B_ij), mean over queries i, of the attention weights A and B (Hedgehog: the
               cross-entropy, less what no student can change)

Layers are fitted side by side: none sees another's student, so fitting one is independent of which others are chosen.
Shapes: B batch, T time, D model width, G groups, R heads per group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nas.linearize.routes import Route
from nas.setup.preparation import OnStep, Step
from nas.tasks.base import Batch, Task
from searchspace.model import Model
from searchspace.primitives import linear
from searchspace.primitives.context import Tokens
from searchspace.primitives.heads import rotate

RATE = 1e-2
EPS = 1e-12

Seen = dict[
    int, tuple[Tensor, Tokens, Tensor]
]  # a layer's input [B, T, D], its tokens, and its output [B, T, D]


def replaced(
    teacher: Model,
    layers: Sequence[int],
    route: Route,
    window: int,
    fitted: Mapping[str, Tensor] | None = None,
) -> Model:
    """The network with new mixers that hold the teacher's projections; nothing else of it differs.

    What the mixers have of their own comes from `fitted`, or is as it starts.
    """
    blocks = list(teacher.arch.blocks)
    for layer in layers:
        blocks[layer] = replace(blocks[layer], mixer=route.mixer(blocks[layer].mixer, window))
    student = Model(replace(teacher.arch, blocks=tuple(blocks)))
    own, held = student.state_dict(), teacher.state_dict()
    for name in (f"blocks.{layer}.mixer.{part}" for layer in layers for part in route.identities):
        own[name] = _identity_taps(own[name])
    tensors = own | dict(fitted or {}) | held
    for layer in layers:
        tensors |= _carried(own, held, layer, route, teacher.part(f"blocks.{layer}").mixer)
    student.load_state_dict({name: tensors[name] for name in own})
    return student.requires_grad_(False).eval()


def _carried(
    own: Mapping[str, Tensor], held: Mapping[str, Tensor], layer: int, route: Route, attention: Any
) -> dict[str, Tensor]:
    """The projections `held` of a layer under the names that they have in `own`.

    Rows [G K, ...] of a group become [H K, ...], those of each of its heads, where the new mixer has no groups.
    """
    found = {}
    for new, old in route.projections.items():
        start = f"blocks.{layer}.mixer.{new}."
        for name in (n for n in own if n.startswith(start)):
            tensor = held[f"blocks.{layer}.mixer.{old}.{name.removeprefix(start)}"]
            if len(tensor) < len(own[name]):
                tensor = (
                    tensor.reshape(attention.G, attention.K, *tensor.shape[1:])
                    .repeat_interleave(attention.R, 0)
                    .flatten(0, 1)
                )
            found[name] = tensor
    return found


def _identity_taps(taps: Tensor) -> Tensor:
    """Of a causal convolution [C, k] that hands on the token itself, its first tap."""
    first = torch.zeros_like(taps)
    first[:, 0] = 1.0
    return first


def transfer(
    teacher: Model,
    student: Model,
    layers: Sequence[int],
    route: Route,
    task: Task,
    steps: int,
    batch_size: int,
    on_step: OnStep,
    seed: int = 0,
) -> None:
    """Fit what the route names of each layer's new mixer; nothing for a route that fits nothing."""
    fitted = [student.get_parameter(f"blocks.{i}.mixer.{name}") for i in layers for name in route.fitted]
    if not fitted or not steps:
        return
    for tensor in fitted:
        tensor.requires_grad_(True)
    optimizer = torch.optim.AdamW(fitted, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = task.batch(step, batch_size, seed)
        value = torch.stack(list(errors(teacher, student, layers, route, batch).values())).sum()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        on_step(Step("attention transfer", step + 1, steps, f"error {value.item() / len(layers):.4f}"))
    student.requires_grad_(False)


def errors(
    teacher: Model, student: Model, layers: Sequence[int], route: Route, batch: Batch
) -> dict[int, Tensor]:
    """The transfer loss of each layer on a batch; of a route that fits nothing the error of the outputs."""
    with torch.no_grad(), _watched(teacher, layers) as seen:
        teacher(batch.inputs, Tokens(valid=batch.valid))
    of_one = _weights_error if route.to == "weights" else _output_error
    return {
        i: of_one(teacher.part(f"blocks.{i}").mixer, student.part(f"blocks.{i}").mixer, *seen[i])
        for i in layers
    }


@contextmanager
def _watched(model: Model, layers: Sequence[int]) -> Iterator[Seen]:
    """What the mixers of the layers are given and give, while the model runs."""
    seen: Seen = {}

    def watch(layer: int) -> Any:
        def keep(module: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
            seen[layer] = (inputs[0], inputs[1], output[0])

        return model.part(f"blocks.{layer}").mixer.register_forward_hook(keep)

    hooks = [watch(layer) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _output_error(teacher: Any, student: Any, x: Tensor, tokens: Tokens, wanted: Tensor) -> Tensor:
    y: Tensor = student(x, tokens)[0]
    if tokens.valid is not None:
        y, wanted = y[tokens.valid], wanted[tokens.valid]
    return (y - wanted).square().mean() / wanted.square().mean()


def _weights_error(teacher: Any, student: Any, x: Tensor, tokens: Tokens, wanted: Tensor) -> Tensor:
    with torch.no_grad():
        target = attention_weights(teacher, x, tokens)
    q, k, _ = student.features(x, tokens)
    found = linear.pair_weights(q, k, student.causal)
    found = found / (found.sum(-1, keepdim=True) + EPS)
    divergence = (target * ((target + EPS).log() - (found + EPS).log())).sum(-1).mean((1, 2))  # [B, T]
    return divergence.mean() if tokens.valid is None else divergence[tokens.valid].mean()


def attention_weights(module: Any, x: Tensor, tokens: Tokens) -> Tensor:
    """Of a plain softmax attention, [B, G, R, T, T]."""
    q, k, _ = module.queries_keys_values(x)
    q, k = rotate(q, tokens).reshape(*q.shape[:2], module.G, module.R, module.K), rotate(k, tokens)
    scores = torch.einsum("bigrk,bjgk->bgrij", q, k) / math.sqrt(module.K)
    places = torch.arange(x.shape[1], device=x.device)
    seen = module.rule.mask(places, places, tokens.valid)
    seen = seen if tokens.valid is None else seen.unsqueeze(1)
    weights: Tensor = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return weights
