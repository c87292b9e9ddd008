"""Moves the spread of activations between channels into the weights around them, so that one scale suits all.

    s_j = max|x_j|^a / max|W_j|^(1 - a);  norm / s,  W s

SmoothQuant, Xiao et al., arXiv:2211.10438. The network computes the same. A norm may only be changed where nothing but
linear maps reads it: a residual tap would see the change.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from searchspace.model import Model
from searchspace.quantization.calibration import CalibrationBatch, observe

ALPHA = 0.5
SLACK = 1e-4  # change by rounding that is allowed, relative to a sublayer's largest output
SMALLEST = 1e-5


def smooth(
    model: Model, sublayers: Iterable[str], batches: list[CalibrationBatch], alpha: float = ALPHA
) -> Model:
    """Return the network with the norms before the given sublayers (`blocks.0.mixer`) smoothed.

    Raises ValueError, naming the sublayer, where its norm has no weight to fold into or has other readers.
    """
    sublayers = sorted(sublayers)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    readers = {name: _readers(model, name, batches[0]) for name in sublayers}
    seen = observe(model, [path for paths in readers.values() for path in paths], batches)
    for name, paths in readers.items():
        channels = seen[paths[0]].channels.clamp_min(SMALLEST)
        largest = torch.stack([weights[f"{path}.weight"].abs().amax(0) for path in paths]).amax(0)
        s = smoothing_scale(channels, largest, alpha)
        for tensor in ("weight", "bias"):
            if f"{name}_norm_in.{tensor}" in weights:
                weights[f"{name}_norm_in.{tensor}"] /= s
        for path in paths:
            weights[f"{path}.weight"] *= s
    smoothed = Model.from_weights(model.arch, weights, model.progress).train(model.training)
    for name in sublayers:
        before, after = (_output(network, name, batches[0]) for network in (model, smoothed))
        if not torch.allclose(before, after, rtol=0.0, atol=SLACK * float(before.abs().max())):
            raise ValueError(
                f"{name}: its norm is read by more than linear maps, so it can't be smoothed; "
                "use the format without _smooth there"
            )
    return smoothed


def smoothing_scale(activations: Tensor, weights: Tensor, alpha: float = ALPHA) -> Tensor:
    """Return s [K] from the largest activation and the largest weight of each channel [K]."""
    return activations.clamp_min(SMALLEST) ** alpha / weights.clamp_min(SMALLEST) ** (1 - alpha)


def _readers(model: Model, name: str, batch: CalibrationBatch) -> list[str]:
    """The linear maps that read the output of the sublayer's norm."""
    norm = model.get_submodule(name.rpartition(".")[0])._modules.get(f"{name.rpartition('.')[2]}_norm_in")
    if norm is None or "weight" not in norm._parameters or model.arch.blocks[_index(name)].placement != "pre":
        raise ValueError(
            f"{name}: smoothing folds into a norm with a weight that stands before the sublayer alone; "
            "use the format without _smooth there"
        )
    given: dict[str, Tensor] = {}
    found: list[str] = []

    def remember(_: nn.Module, __: Any, output: tuple[Tensor, Any]) -> None:
        given["norm"] = output[0]

    def compare(path: str) -> Any:
        return lambda _, args: found.append(path) if args[0] is given["norm"] else None

    with ExitStack() as hooks:
        hooks.enter_context(norm.register_forward_hook(remember))
        for path, part in model.get_submodule(name).named_modules(prefix=name):
            if getattr(part, "kind", None) == "dense":
                hooks.enter_context(part.register_forward_pre_hook(compare(path)))
        _run(model, batch)
    if not found:
        raise ValueError(f"{name}: no linear map reads its norm directly, so there is nothing to smooth")
    return list(dict.fromkeys(found))


def _output(model: Model, name: str, batch: CalibrationBatch) -> Tensor:
    found: list[Tensor] = []
    with model.get_submodule(name).register_forward_hook(lambda _, __, output: found.append(output[0])):
        _run(model, batch)
    return found[0]


@torch.no_grad()
def _run(model: Model, batch: CalibrationBatch) -> None:
    training = model.training
    model.eval()(*batch)
    model.train(training)


def _index(name: str) -> int:
    return int(name.split(".")[1])
