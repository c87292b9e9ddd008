"""Attention transfer: each new mixer learns to compute what the replaced attention computes on the teacher's inputs.

    output     |y - y*|^2 / |y*|^2 of the layer's outputs (LoLCATs)
    weights    sum_j A_ij log (A_ij / B_ij), mean over queries i, of the attention weights A and B (Hedgehog: the
               cross entropy minus the constant entropy of A)

Layers are fitted independently, each on the teacher's inputs, so the result does not depend on which others are chosen.
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
    """The teacher's network with the mixers of `layers` replaced by new ones with the teacher's projections.

    Other tensors of the new mixers come from `fitted`, `[...]` each by name, or keep their initial values.
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
    """The teacher's projections `held` of a layer under their names in `own`, the student's tensors.

    If the new mixer has no groups, rows [G K, ...] are repeated for each head of a group, to [H K, ...].
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
    """Taps [C, k] of a causal convolution that is the identity: only the first tap, for the token itself, is 1."""
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
    """Fit the tensors of each layer's new mixer that the route names, in place; does nothing if there are none."""
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
    """The transfer loss [] of each layer on a batch; for a route that fits nothing, the error of the outputs."""
    with torch.no_grad(), _watched(teacher, layers) as seen:
        teacher(batch.inputs, Tokens(valid=batch.valid))
    of_one = _weights_error if route.to == "weights" else _output_error
    return {
        i: of_one(teacher.part(f"blocks.{i}").mixer, student.part(f"blocks.{i}").mixer, *seen[i])
        for i in layers
    }


@contextmanager
def _watched(model: Model, layers: Sequence[int]) -> Iterator[Seen]:
    """Collect inputs and outputs of the layers' mixers while the context is open."""
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
    """The weights [B, G, R, T, T] of a plain softmax attention for its input x [B, T, D]."""
    q, k, _ = module.queries_keys_values(x)
    q, k = rotate(q, tokens).reshape(*q.shape[:2], module.G, module.R, module.K), rotate(k, tokens)
    scores = torch.einsum("bigrk,bjgk->bgrij", q, k) / math.sqrt(module.K)
    places = torch.arange(x.shape[1], device=x.device)
    seen = module.rule.mask(places, places, tokens.valid)
    seen = seen if tokens.valid is None else seen.unsqueeze(1)
    weights: Tensor = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return weights
