"""From a network in native precision to one whose blocks have number formats: round, calibrate, pack."""

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
    """Return the network `arch` made from `model`, its unquantized form; `model` is unchanged.

    `batches` are needed by calibrated formats (int8_static, gptq, smooth). Raises ValueError, naming the place, where
    they are missing or not finite, or where a norm can't be smoothed.
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
    where = next(iter(weights.values())).device  # activation ranges are on the CPU
    return Model.from_weights(arch, weights, model.progress).to(where).train(model.training)


def is_calibrated(fmt: Format) -> bool:
    return fmt.algorithm != "rtn" or fmt.activations == "int8_static"


def quantized_parts(arch: ArchSpec) -> dict[str, QuantizedLinear]:
    """Return the linear maps of `arch` with a format, without storage, by their names in its model."""
    with torch.device("meta"):
        skeleton = Model(arch)
    return {n: part for n, part in skeleton.named_modules() if isinstance(part, QuantizedLinear)}


def read_back(model: Model) -> Model:
    """Return the network in native precision with the dequantized weights; the model itself where none is quantized."""
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
    """Return what is stored of a weight [N, K] with these inputs. Raises ValueError for values that are not finite."""
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
    """`blocks.0.mixer` for `blocks.0.mixer.q_proj`."""
    return ".".join(path.split(".")[:3])
