"""From a network with native numbers to the one whose blocks have formats: round, calibrate, pack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from searchspace.model import Model
from searchspace.primitives.number_formats import pack_pairs, read, stored
from searchspace.primitives.quantized_linear import QuantizedLinear, static_range
from searchspace.quantization.calibration import CalibrationBatch, Seen, observe
from searchspace.quantization.gptq import gptq
from searchspace.quantization.reparameterize import smooth
from searchspace.spec.arch import ArchSpec, Format


def apply_policy(model: Model, arch: ArchSpec, batches: Sequence[CalibrationBatch] = ()) -> Model:
    """The network `arch` from `model`, the same one unquantized; `model` stays as it is.

    `batches` are needed by formats that are calibrated (int8_static, gptq, smooth). Raises ValueError where they are
    missing, hold what is not a number, or where a norm can't be smoothed, naming the place.
    """
    if model.arch != arch.unquantized:
        raise ValueError(f"architecture {arch.id} is not that of the network apart from its formats")
    if arch == model.arch:
        return model
    wanted = quantized_parts(arch)
    smoothed = {_sublayer(path) for path, part in wanted.items() if part.format.algorithm == "smooth"}
    calibrated = sorted({p.format.name for p in wanted.values() if is_calibrated(p.format)})
    if calibrated and not batches:
        raise ValueError(f"calibration needs data, for {', '.join(calibrated)}: no batch was given")
    if smoothed:
        model = smooth(model, smoothed, list(batches))
    grams = [path for path, part in wanted.items() if part.format.algorithm == "gptq"]
    static = [path for path, part in wanted.items() if part.format.activations == "int8_static"]
    seen = observe(model, {*grams, *static}, batches, grams) if grams or static else {}
    weights = dict(model.state_dict())
    for path, part in wanted.items():
        weight = weights.pop(f"{path}.weight").detach()
        tensors = pack(weight, part.format, seen.get(path))
        if "bias" in part.tensors:
            tensors["bias"] = weights.pop(f"{path}.bias").detach()
        weights |= {f"{path}.{name}": tensor for name, tensor in tensors.items()}
    where = next(iter(weights.values())).device  # ranges of activations are made on the CPU
    return Model.from_weights(arch, weights, model.progress).to(where).train(model.training)


def is_calibrated(fmt: Format) -> bool:
    return fmt.algorithm != "rtn" or fmt.activations == "int8_static"


def quantized_parts(arch: ArchSpec) -> dict[str, QuantizedLinear]:
    """The linear maps of `arch` that have a format, without storage, by their names in its model."""
    with torch.device("meta"):
        skeleton = Model(arch)
    return {n: part for n, part in skeleton.named_modules() if isinstance(part, QuantizedLinear)}


def read_back(model: Model) -> Model:
    """The network with native numbers whose weights are what those in formats stand for; itself where none is."""
    arch = model.arch.unquantized
    if arch == model.arch:
        return model
    weights = dict(model.state_dict())
    for path, part in model.named_modules():
        if isinstance(part, QuantizedLinear):
            for name in part.tensors.keys() - {"bias"}:
                del weights[f"{path}.{name}"]
            weights[f"{path}.weight"] = read(part.tensors, part.format, part.K)
    return Model.from_weights(arch, weights, model.progress).train(model.training)


def pack(weight: Tensor, fmt: Format, seen: Seen | None = None) -> dict[str, Tensor]:
    """What is stored of a weight [N, K] that sees such inputs."""
    if not weight.isfinite().all():
        raise ValueError(f"{fmt.name}: the weights hold values that are not finite")
    if fmt.algorithm == "gptq":
        assert seen is not None
        assert seen.gram is not None
        codes, scale, offset = gptq(weight, seen.gram, fmt.group_size)
        tensors = {"packed": pack_pairs(codes, fmt.group_size), "scale": scale, "offset": offset}
    else:
        tensors = stored(weight, fmt)
    if fmt.activations == "int8_static":
        assert seen is not None
        tensors |= static_range(seen.low, seen.high)
    return tensors


def _sublayer(path: str) -> str:
    """`blocks.0.mixer` of `blocks.0.mixer.q_proj`."""
    return ".".join(path.split(".")[:3])
