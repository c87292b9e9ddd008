"""Exact rewritings of a trained network: each returns a network that computes the same with less work.

    pre_rms      LayerNorm on a stream whose writers are centred is RMS normalisation
    pre_crms     and the last channel of such a stream is minus the sum of the others: it need not be carried
    fold_affine  a channel affine before linear maps is part of them; every extraction applies it

Whether a part fits the rewriting is not read off its kind but seen on a batch: where the conversion would not be exact
there, fold_affine leaves the part as it is, and the others say which it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from searchspace.model import Block, Model
from searchspace.primitives.axes import Axis, declared_tensors
from searchspace.spec.arch import NONE, OpSpec

LAYERNORM, AFFINE, BIASED = OpSpec("layernorm"), OpSpec("channel_affine"), OpSpec.of("dense", bias=True)
SLACK = 64  # roundings allowed between what must be equal
WRITERS = {"o_proj", "down_proj"}  # the projections by which a sublayer writes to the residual stream


def pre_rms(model: Model, inputs: Tensor) -> Model:
    """The Pre-RMSNorm network that equals a Pre-LN one, by centring everything that writes to the residual stream.

    Jiang et al., arXiv:2305.14858: a LayerNorm never sees the mean of the stream, so the writers may leave it out, and
    then the norms need not take it away. `inputs` is any batch. Raises ValueError where something reads the stream
    without a LayerNorm, or writes a mean that is not in its weights.
    """
    arch = model.arch
    reason = _why_not_pre_ln(model)
    if reason is not None:
        raise ValueError(f"no Pre-RMSNorm form: {reason}")
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, dim in _written(model):
        weights[name] -= weights[name].mean(dim, keepdim=True)
    centred = Model.from_weights(arch, weights, model.progress).train(model.training)
    _refuse_means(centred, inputs)
    norm = OpSpec("rms_affine")
    blocks = tuple(replace(block, norm=norm) if block.is_active else block for block in arch.blocks)
    simpler = replace(arch, blocks=blocks, final_norm=norm)
    converted = Model.from_weights(simpler, centred.state_dict(), model.progress).train(model.training)
    before, after = _run(model, inputs), _run(converted, inputs)
    if (after - before).abs().amax() > torch.finfo(before.dtype).eps ** 0.5 * before.abs().amax():
        raise ValueError(
            "no Pre-RMSNorm form: centring the stem or the positions changes what the network computes"
        )
    return converted


def pre_crms(model: Model, inputs: Tensor) -> Model:
    """The Pre-CRMSNorm network of D - 1 channels that equals a Pre-LN one of D; of the same paper as pre_rms.

    Writers lose their last channel. Readers, which must be dense, take the norm's scale s and shift b with them:

        W (s * x) = (W diag(s))_{:, :-1} x_{:-1} - (W diag(s))_{:, -1} sum(x_{:-1})          bias + W b

    Raises ValueError as pre_rms does, where another part reads the stream, and where the final norm has a shift, since
    heads have no bias that could take it.
    """
    model = pre_rms(model, inputs)
    arch, weights = model.arch, dict(model.state_dict())
    channels = Axis.of(D=arch.d_model)
    for name, dim in _written(model):
        weights[name] = weights[name].narrow(dim, 0, arch.d_model - 1).clone()
    for i, block in enumerate(arch.blocks):
        if block.is_active:
            if block.projection.op != "dense":
                raise ValueError(
                    f"no Pre-CRMSNorm form: blocks.{i} reads the stream by {block.projection.op} maps"
                )
            _fold_block(f"blocks.{i}", model.part(f"blocks.{i}"), weights, affine=("weight", "bias"))
    scale, shift = weights.pop("final_norm.weight"), weights.pop("final_norm.bias")
    if shift.any():
        raise ValueError("no Pre-CRMSNorm form: the final norm has a shift, and the head no bias to take it")
    for name, declared in declared_tensors(model):
        if name.startswith("head.") and declared.axes[-1] == channels:
            weights[name] = weights[name] * scale
        if name in weights and channels in declared.axes and weights[name].shape == declared.shape:
            if declared.axes.index(channels) != 1 or len(declared.axes) != 2:
                raise ValueError(f"no Pre-CRMSNorm form: {name} reads the stream by other than a dense map")
            weights[name] = (weights[name][:, :-1] - weights[name][:, -1:]).clone()
    norm, width = OpSpec("crms"), arch.d_model - 1
    for path in {n.rsplit(".", 1)[0] for n in model.state_dict() if "_norm_in." in n} | {"final_norm"}:
        weights[f"{path}.weight"] = scale.new_ones(width)
    smaller = replace(
        arch,
        d_model=width,
        stages=tuple(replace(s, d_model=width) for s in arch.stages),
        blocks=tuple(replace(b, norm=norm, projection=BIASED) if b.is_active else b for b in arch.blocks),
        final_norm=norm,
    )
    return Model.from_weights(smaller, weights, model.progress).train(model.training)


def _why_not_pre_ln(model: Model) -> str | None:
    arch = model.arch
    for i, block in enumerate(arch.blocks):
        if block.is_active and (block.norm != LAYERNORM or block.placement != "pre"):
            return f"blocks.{i} has {block.norm} in {block.placement} placement, it takes layernorm in pre placement"
    if arch.final_norm != LAYERNORM:
        return f"final_norm is {arch.final_norm}, it takes layernorm"
    for i, stage in enumerate(arch.stages):
        for transition in (stage.enter, stage.leave):
            if transition != NONE:
                return f"stage {i}: {transition.op} reads the residual stream without a layernorm"
    return None


def _written(model: Model) -> Iterator[tuple[str, int]]:
    """(tensor, its axis of residual channels) of everything that is added to the stream, as far as names tell."""
    channels = Axis.of(D=model.arch.d_model)
    for place in ("stem", "position"):
        if place in model.part_names:
            for name, declared in declared_tensors(model.part(place), prefix=place):
                if channels in declared.axes:
                    yield name, declared.axes.index(channels)
    for path, part in model.named_modules():
        if path.startswith("blocks.") and path.split(".")[-1] in WRITERS:
            for name, _ in part.named_parameters():
                if name in ("weight", "bias", "expand"):
                    yield f"{path}.{name}", 0


def _refuse_means(model: Model, inputs: Tensor) -> None:
    """Raises where a part still writes a mean."""
    means: dict[str, float] = {}

    def watch(name: str, part: nn.Module) -> Any:
        def hook(_: nn.Module, __: Any, output: tuple[Tensor, Any]) -> None:
            y = output[0]
            rounding = SLACK * torch.finfo(y.dtype).eps * y.abs().amax()
            means[name] = float(y.mean(-1).abs().amax() - rounding)

        return part.register_forward_hook(hook)

    watched: dict[str, nn.Module] = {
        name: model.part(name) for name in ("stem", "position") if name in model.part_names
    }
    for i in range(len(model.arch.blocks)):
        if f"blocks.{i}" in model.part_names:
            block = model.part(f"blocks.{i}")
            watched |= {f"blocks.{i}.{name}": getattr(block, name) for name in block.sublayers}
    handles = [watch(name, part) for name, part in watched.items()]
    try:
        _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, mean in means.items():
        if mean > 0:
            raise ValueError(
                f"no Pre-RMSNorm form: {name} writes a mean over the channels that is not in its weights"
            )


def fold_affine(model: Model, inputs: Tensor) -> Model:
    """The network whose channel affines in pre placement are part of the linear maps behind them.

        W (s * x + c) + b = (W diag(s)) x + (b + W c)

    Every linear map of such a block gets a bias; a final norm stays, since heads have none. So does a block whose
    affine feeds more than dense maps, seen on any batch `inputs`, or differs from run to run; the model itself comes
    back where nothing folds. Folding a norm to an affine is fold.fold's.
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


def _fold_block(
    name: str, block: Block, weights: dict[str, Tensor], affine: tuple[str, str] = ("scale", "shift")
) -> None:
    """Replace the tensors of one block by those without its affines, whose tensors have the names `affine`."""
    for sublayer in block.sublayers:
        norm = f"{name}.{sublayer}_norm_in"
        scale, shift = (weights.pop(f"{norm}.{n}") for n in affine)
        for path, part in getattr(block, sublayer).named_modules(prefix=f"{name}.{sublayer}"):
            if getattr(part, "kind", None) != "dense":
                continue
            weight = weights[f"{path}.weight"].detach()
            bias = weights.get(f"{path}.bias", weight.new_zeros(len(weight))).detach()
            if part.declared["weight"].axes[1] == Axis.of(D=len(scale)):
                weight, bias = weight * scale, bias + weight @ shift
            weights[f"{path}.weight"], weights[f"{path}.bias"] = weight.clone(), bias.clone()


def _answering_alike(model: Model, folded: Model, places: list[int], inputs: Tensor) -> list[int]:
    """Those of the blocks whose sublayers answer the stream in the folded network as in the original one."""
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

    handles = [check(i, model.part(f"blocks.{i}"), folded.part(f"blocks.{i}")) for i in places]
    try:
        _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _run(model: Model, inputs: Tensor) -> Tensor:
    """The logits in evaluation mode."""
    training = model.training
    logits: Tensor = model.eval()(inputs)[0]
    model.train(training)
    return logits
