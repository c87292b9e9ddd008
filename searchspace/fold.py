"""Exact rewrites of a trained network, each into one that computes the same with less work.

    fold         a norm with stored statistics becomes a channel affine
    fold_affine  a channel affine before linear maps becomes part of them

Whether an affine can be folded is not derived from the operators but tested on a batch; it stays where folding would
not be exact.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from searchspace import registry
from searchspace.model import Block, Model
from searchspace.primitives.axes import Axis
from searchspace.spec.arch import NONE, OpSpec

AFFINE, BIASED = OpSpec("channel_affine"), OpSpec.of("dense", bias=True)
SLACK = 64  # roundings by which equal values may differ


def fold(model: Model) -> Model:
    """Return a model that computes the same in evaluation mode; the same object where nothing folds."""
    weights = dict(model.state_dict())
    arch = model.arch

    def folded(spec: OpSpec, paths: list[str]) -> OpSpec:
        entry = registry.operator("norm", spec.op)
        if spec == NONE or entry.fold is None:
            return spec
        for path in paths:
            part = model.get_submodule(path)
            found = entry.fold(part, model.progress)
            if found is None:
                return spec
            simpler, tensors = found
            for name in part.state_dict():
                del weights[f"{path}.{name}"]
            weights.update({f"{path}.{name}": tensor.detach().clone() for name, tensor in tensors.items()})
        return simpler if paths else spec

    blocks = []
    for i, block in enumerate(arch.blocks):
        here = model.part(f"blocks.{i}")._modules if f"blocks.{i}" in model.part_names else {}
        blocks.append(
            replace(block, norm=folded(block.norm, [f"blocks.{i}.{n}" for n in here if "_norm_" in n]))
        )
    final_norm = folded(arch.final_norm, ["final_norm"])
    simpler = replace(arch, blocks=tuple(blocks), final_norm=final_norm)
    return (
        model
        if simpler == arch
        else Model.from_weights(simpler, weights, model.progress).train(model.training)
    )


def fold_affine(model: Model, inputs: Tensor) -> Model:
    """Return the network with channel affines in pre placement folded into the linear maps that follow.

        W (s * x + c) + b = (W diag(s)) x + (b + W c)

    Every linear map of such a block gets a bias. A final norm stays, since heads have no bias. A block also stays where
    its affine feeds more than dense maps, as tested on a batch `inputs` [B, ...], or differs between runs; the model
    itself is returned where nothing folds. `fold` turns norms into such affines.
    """
    arch = model.arch
    runs = [stage.repeats for stage in arch.stages for _ in range(stage.num_blocks)]
    plain = [
        i
        for i, block in enumerate(arch.blocks)
        if block.is_active and block.norm == AFFINE and block.placement == "pre"
        if block.projection.op == "dense" and block.quant.is_native and runs[i] == 1
    ]
    foldable = _answering_alike(model, _without_affines(model, plain), plain, inputs)
    return _without_affines(model, foldable) if foldable else model


def _without_affines(model: Model, places: list[int]) -> Model:
    weights, blocks = dict(model.state_dict()), list(model.arch.blocks)
    for i in places:
        blocks[i] = replace(blocks[i], norm=NONE, projection=BIASED)
        _fold_block(f"blocks.{i}", model.part(f"blocks.{i}"), weights)
    arch = replace(model.arch, blocks=tuple(blocks))
    return Model.from_weights(arch, weights, model.progress).train(model.training)


def _fold_block(name: str, block: Block, weights: dict[str, Tensor]) -> None:
    """Replace the tensors of one block by those without its affines."""
    for sublayer in block.sublayers:
        norm = f"{name}.{sublayer}_norm_in"
        scale, shift = (weights.pop(f"{norm}.{n}") for n in ("scale", "shift"))
        for path, part in getattr(block, sublayer).named_modules(prefix=f"{name}.{sublayer}"):
            if getattr(part, "kind", None) != "dense":
                continue
            weight = weights[f"{path}.weight"].detach()
            bias = weights.get(f"{path}.bias", weight.new_zeros(len(weight))).detach()
            if part.declared["weight"].axes[1] == Axis.of(D=len(scale)):
                weight, bias = weight * scale, bias + weight @ shift
            weights[f"{path}.weight"], weights[f"{path}.bias"] = weight.clone(), bias.clone()


def _answering_alike(model: Model, folded: Model, places: list[int], inputs: Tensor) -> list[int]:
    """The blocks whose sublayers give equal outputs in the folded and in the original network."""
    found: list[int] = []

    def check(i: int, before: Block, after: Block) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            x, tokens = given[:2]
            for sublayer in before.sublayers:
                normed, _ = getattr(before, f"{sublayer}_norm_in")(x, tokens)
                expected, actual = (
                    getattr(before, sublayer)(normed, tokens)[0],
                    getattr(after, sublayer)(x, tokens)[0],
                )
                rounding = SLACK * torch.finfo(x.dtype).eps * expected.abs().amax()
                if (actual - expected).abs().amax() > rounding:
                    return
            found.append(i)

        return before.register_forward_pre_hook(hook)

    with ExitStack() as hooks:
        for i in places:
            hooks.enter_context(check(i, model.part(f"blocks.{i}"), folded.part(f"blocks.{i}")))
        _run(model, inputs)
    return found


@torch.no_grad()
def _run(model: Model, inputs: Tensor) -> Tensor:
    """The logits in evaluation mode, for inputs [B, ...]."""
    training = model.training
    logits: Tensor = model.eval()(inputs)[0]
    model.train(training)
    return logits
