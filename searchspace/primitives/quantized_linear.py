"""A linear map whose weights are stored in few bits, and the kernels that compute it on each device.

    y = x W^T + b       with W, and for some formats x, quantized by searchspace.primitives.number_formats

`implementation` maps (format, device, shape) to an implementation. It is *real* where it is a kernel for this format,
and *simulated* where it computes the same numbers from the weights read back: valid for quality and size, meaningless
as a latency. A real one is not used where the start-up self-test finds its results inexact: integer products saturate
silently on x86 without VNNI. `why_not_offered` says where a kernel does not pay off.
Shapes: x [..., K], codes [N, K], y [..., N], M total rows of x.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.kernels import dispatch
from searchspace.primitives.axes import AxisModule
from searchspace.primitives.integer_matmul import (
    dynamic_int8_matmul,
    int4_matmul,
    int8_matmul,
)
from searchspace.primitives.number_formats import (
    FP8,
    FP8_MAX,
    affine_range,
    dequantize_blocks,
    empty,
    quantize_affine,
    quantize_blocks,
    quantize_fp8,
    quantize_tensor,
    read,
    stored,
    unpack_pairs,
    whole,
)
from searchspace.spec.arch import GROUPED, ONNX_INT8, Format

INT4_ROWS, INT4_GROUPS = 16, (32, 64, 128, 256)  # supported by torch's int4 kernel for CPUs
SMALLEST = 1e-30  # scale for a row of zeros
FEW_TOKENS = 4  # up to four tokens, the time is that of reading the weights
FEW_VALUES = 1 << 16  # up to this number of results, oneDNN's start-up takes longer than scaling afterwards
WIDE = 1024
CUBLAS_INT8, CUBLAS_FP8 = 8, 16  # the sizes of cuBLAS's products must be multiples of these


class QuantizedLinear(AxisModule):
    """The map that `BuildContext.linear` returns for a role with a format, initially `dense` rounded to the nearest.

    Its tensors are buffers: they are loaded and saved with the weights but not trained, and keep their dtype when the
    model changes its own. Raises ValueError where the projection is not dense.
    """

    def __init__(self, fmt: Format, dense: Any) -> None:
        super().__init__()
        if dense.kind != "dense":
            raise ValueError(f"role {dense.role}: {fmt.name} stores dense projections, got {dense.kind}")
        self.role, self.kind, self.format = dense.role, "quantized", fmt
        self._kind = replace(fmt, algorithm="rtn")  # the rounding algorithm does not affect the computation
        self.N, self.K = dense.weight.shape
        is_meta = dense.weight.is_meta
        tensors = empty(self.N, self.K, fmt) if is_meta else stored(dense.weight.detach(), fmt)
        if fmt.activations == "int8_static":
            tensors |= static_range(-4.0, 4.0)
        if "bias" in dense.declared:
            tensors["bias"] = dense.bias.detach()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self._prepared: tuple[Any, dict[Any, Any]] = (None, {})

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N]."""
        rows = x.reshape(-1, self.K)
        how = _implementation(self._kind, x.device.type, len(rows), self.N, dispatch.selected())
        return how.run(self, rows).view(*x.shape[:-1], self.N)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors [...] by name."""
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    def prepared(self, make: Callable[[QuantizedLinear], Any]) -> Any:
        """Return what `make` derives from the codes for a kernel, cached from the first run and never saved."""
        source = self._buffers["packed" if self.format.weights == "int4" else "codes"]
        made_of, found = self._prepared
        if made_of is None or made_of() is not source:
            made_of, found = self._prepared = weakref.ref(source), {}
        if make not in found:
            found[make] = make(self)
        return found[make]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": (None, {})}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Moves between devices only, since a scale in another dtype would change its value."""

        def moved(tensor: Tensor) -> Tensor:
            device = fn(tensor.new_empty(0)).device
            return tensor if device == tensor.device else tensor.to(device)

        super()._apply(moved, recurse)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        errors: list[str] = args[-1]
        for name, mine in self.tensors.items():
            given = state_dict.get(prefix + name)
            if given is not None:
                errors += [f"{prefix}{name} {reason}" for reason in _damages(name, given, mine)]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _damages(name: str, given: Tensor, mine: Tensor) -> list[str]:
    """Sentences on what makes a stored tensor unusable."""
    found = []
    if given.dtype != mine.dtype and name != "bias":
        found.append(f"is {given.dtype}, it has to be {mine.dtype}")
    if given.is_floating_point() and given.dtype.itemsize > 1 and not given.is_meta:
        if not given.isfinite().all():
            found.append("holds values that are not finite")
        elif name in ("scale", "x_scale") and (given < 0).any():
            found.append("holds negative scales")
    return found


def static_range(low: float, high: float) -> dict[str, Tensor]:
    """Return the scale [] and zero point [] of activations between `low` and `high`, as stored."""
    scale, zero = affine_range(low, high)
    x_scale = torch.tensor(scale, dtype=torch.float32)
    return {"x_scale": x_scale, "x_zero": torch.tensor(zero, dtype=torch.int32)}


# implementations


@dataclass(frozen=True)
class Implementation:
    """`run` maps (module, rows [M, K]) to [M, N]; `is_real` says whether its time may be reported."""

    name: str
    is_real: bool
    run: Callable[[QuantizedLinear, Tensor], Tensor]


def _cast(module: QuantizedLinear, x: Tensor) -> Tensor:
    return _with_bias(module, F.linear(x.to(module.weight.dtype), module.weight).to(x.dtype))


def _simulated(module: QuantizedLinear, x: Tensor) -> Tensor:
    """The product of the dequantized numbers; sums are exact where both sides are integers."""
    fmt = module.format
    if fmt.activations == "int8":
        return _with_bias(module, dynamic_int8_matmul(x, module.codes, module.scale))
    if fmt.activations == "uint8":  # integers: float32 sums are exact up to 2^24
        whole_numbers, step = quantize_tensor(x)
        sums = F.linear(whole_numbers, module.codes.float())
        return _with_bias(module, (sums * (step * module.scale)).to(x.dtype))
    precise = x.double() if fmt.activations == "int8_static" else x.float()
    if fmt.activations == "int8_static":
        scale, zero = float(module.x_scale), int(module.x_zero)
        precise = (quantize_affine(x.float(), scale, zero).double() - zero) * scale
    elif fmt.activations == "fp8":
        codes, row_scale = quantize_fp8(x)
        precise = codes.float() * row_scale.unsqueeze(-1)
    elif fmt.activations == "bct":
        precise = dequantize_blocks(*quantize_blocks(x, fmt.group_size))[:, : module.K]
    weight = read(module.tensors, fmt, module.K).to(precise.dtype)
    return _with_bias(module, (precise @ weight.mT).to(x.dtype))


def _with_bias(module: QuantizedLinear, y: Tensor) -> Tensor:
    bias = module._buffers.get("bias")
    return y if bias is None else y.add_(bias)


@dataclass(frozen=True)
class _Static:
    """An activation x is scale (code - zero); `step` and `start` [N] turn sums of products into y."""

    scale: float
    zero: int
    step: Tensor
    start: Tensor


def _static(module: QuantizedLinear) -> _Static:
    scale, zero, bias = float(module.x_scale), int(module.x_zero), module._buffers.get("bias")
    step = module.scale * scale
    start = step * -zero * module.codes.sum(1)
    return _Static(scale, zero, step, start if bias is None else start + bias.float())


def _onednn_static(module: QuantizedLinear, x: Tensor) -> Tensor:
    static, bias = module.prepared(_static), module._buffers.get("bias")
    codes = quantize_affine(x, static.scale, static.zero)
    bias = bias if bias is None else bias.float()
    return _onednn(module, codes, static.scale, static.zero, x.dtype, bias)


def _int_mm_static(module: QuantizedLinear, x: Tensor) -> Tensor:
    static = module.prepared(_static)
    total = torch._int_mm(quantize_affine(x, static.scale, static.zero), module.codes.mT)
    return torch.addcmul(static.start, total, static.step).to(x.dtype)


def _onednn_dynamic(module: QuantizedLinear, x: Tensor) -> Tensor:
    codes, scale = _rows(x)
    y = _onednn(module, codes, 1.0, 0, torch.float32, None)
    return _with_bias(module, y.mul_(scale).to(x.dtype))


def _int_mm_dynamic(module: QuantizedLinear, x: Tensor) -> Tensor:
    codes, scale = _rows(x)
    total = torch._int_mm(codes, module.codes.mT)
    return _with_bias(module, (total * scale).mul_(module.scale).to(x.dtype))


def _int_mm_cuda(module: QuantizedLinear, x: Tensor) -> Tensor:
    """cuBLAS needs multiples of 8: zeros appended to the operands change no sum."""
    codes, scale = _rows(x)
    total = torch._int_mm(whole(codes, CUBLAS_INT8), module.prepared(_in_eights))[:, : module.N]
    return _with_bias(module, (total * scale).mul_(module.scale).to(x.dtype))


def _in_eights(module: QuantizedLinear) -> Tensor:
    return in_multiples(module.codes, CUBLAS_INT8)


def in_multiples(codes: Tensor, multiple: int) -> Tensor:
    """codes [N, K] -> their transpose [K', N'] in column-major order, padded with zeros to multiples of both."""
    by_row = whole(whole(codes, multiple).mT, multiple).mT
    return by_row.contiguous().mT


def _rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """As quantize_rows, in fewer passes; scale [M, 1]."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).div_(127).clamp_min_(SMALLEST)
    return torch.div(x, scale).round_().to(torch.int8), scale


def _onednn(
    module: QuantizedLinear, codes: Tensor, x_scale: float, x_zero: int, dtype: torch.dtype, bias: Any
) -> Tensor:
    """oneDNN's integer product."""
    packed, no_zero = module.prepared(_onednn_pack)
    given: tuple[Any, ...] = (codes, x_scale, x_zero, packed, module.scale, no_zero)
    y: Tensor = torch.ops.onednn.qlinear_pointwise(*given, bias, 1.0, 0, dtype, "none", [], "")
    return y


def _onednn_pack(module: QuantizedLinear) -> tuple[Tensor, Tensor]:
    """oneDNN expects the weights as [N, K]."""
    packed = torch.ops.onednn.qlinear_prepack(module.codes, None)
    return packed, torch.zeros(module.N, dtype=torch.int32)


def _int8pack(module: QuantizedLinear, x: Tensor) -> Tensor:
    scale = module.scale.bfloat16()
    return _with_bias(module, torch._weight_int8pack_mm(x.bfloat16(), module.codes, scale).to(x.dtype))


def _int4pack(module: QuantizedLinear, x: Tensor) -> Tensor:
    """torch's own CPU kernel, in bfloat16."""
    group = module.format.group_size
    packed, both = module.prepared(_int4_pack)
    y = torch.ops.aten._weight_int4pack_mm_for_cpu(whole(x.bfloat16(), group), packed, group, both)
    return _with_bias(module, y[:, : module.N].to(x.dtype))


def _int4_pack(module: QuantizedLinear) -> tuple[Tensor, Tensor]:
    codes = whole(unpack_pairs(module.packed, module.format.group_size).mT, INT4_ROWS).mT.int().contiguous()
    both = torch.stack([whole(t.mT, INT4_ROWS) for t in (module.scale, module.offset)], -1)
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2), both.contiguous()


def _triton_int8(module: QuantizedLinear, x: Tensor) -> Tensor:
    return _with_bias(module, int8_matmul(x, module.codes, module.scale))


def _triton_dynamic(module: QuantizedLinear, x: Tensor) -> Tensor:
    return _with_bias(module, dynamic_int8_matmul(x, module.codes, module.scale))


def _triton_int4(module: QuantizedLinear, x: Tensor) -> Tensor:
    """The kernel has no offsets: they form a second product, with the sums of x over each group."""
    x_whole = whole(x, module.format.group_size)
    y = int4_matmul(x_whole, module.packed, module.scale.float())
    sums = x_whole.float().unflatten(-1, (module.scale.shape[1], -1)).sum(-1)
    return _with_bias(module, (y + sums @ module.offset.float().mT).to(x.dtype))


def _scaled_mm(module: QuantizedLinear, x: Tensor) -> Tensor:
    """cuBLAS needs multiples of 16: appended zeros change no sum. F.pad only supports bytes, whose 0 is 0 in e4m3."""
    codes, scale = quantize_fp8(x)
    weights, weight_scale = module.prepared(_in_sixteens)
    y = torch._scaled_mm(
        whole(codes.view(torch.uint8), CUBLAS_FP8).view(FP8),
        weights,
        scale_a=scale.clamp_min(1 / FP8_MAX**2).unsqueeze(-1),
        scale_b=weight_scale,
        out_dtype=torch.bfloat16,
    )
    return _with_bias(module, y[:, : module.N].to(x.dtype))


def _in_sixteens(module: QuantizedLinear) -> tuple[Tensor, Tensor]:
    weights = in_multiples(module.codes.view(torch.uint8), CUBLAS_FP8).view(FP8)
    return weights, whole(module.scale, CUBLAS_FP8).clamp_min(1 / FP8_MAX**2).unsqueeze(0)


# Quantizing activations takes the same time for any number of outputs, so a format pays off from some number of outputs
# on, which depends on the number of tokens: at least `pays_from` of studies/results/quantization/cpu.json.
_WEIGHTS = {1: 384}
OFFERED_FROM = {
    ("cpu", "int8"): _WEIGHTS,
    ("cpu", "int4"): _WEIGHTS,
    ("cpu", "int8_dynamic"): {1: 768, 8: 384, 32: 768, 128: 768, 512: 1536},
    ("cpu", "int8_static"): {1: 768, 8: 256, 32: 256, 128: 768, 512: 1536},
}
SIMULATED = Implementation("simulated", False, _simulated)
_KINDS = {
    ("cpu", "bf16"): Implementation("bf16", True, _cast),
    ("cpu", "int8 few"): Implementation("_weight_int8pack_mm", True, _int8pack),
    ("cpu", "int4 few"): Implementation("_weight_int4pack_mm_for_cpu", True, _int4pack),
    ("cpu", "int8_dynamic"): Implementation("onednn qlinear, per token", True, _onednn_dynamic),
    ("cpu", "int8_dynamic small"): Implementation("_int_mm, per token", True, _int_mm_dynamic),
    ("cpu", "int8_static"): Implementation("onednn qlinear, static", True, _onednn_static),
    ("cpu", "int8_static small"): Implementation("_int_mm, static", True, _int_mm_static),
    ("cuda", "bf16"): Implementation("bf16", True, _cast),
    ("cuda", "fp16"): Implementation("fp16", True, _cast),
    ("cuda", "int8_dynamic"): Implementation("_int_mm, per token", True, _int_mm_cuda),
    ("cuda", "fp8"): Implementation("_scaled_mm, per row", True, _scaled_mm),
    ("triton", "int8"): Implementation("triton int8_matmul", True, _triton_int8),
    ("triton", "int8_dynamic"): Implementation("triton dynamic_int8_matmul", True, _triton_dynamic),
    ("triton", "int4"): Implementation("triton int4_matmul", True, _triton_int4),
}
CANDIDATES = ("bf16", "fp16", "int8", "int8_dynamic", "int8_static", "int4", "fp8")


def implementation(fmt: Format, device: str, num_tokens: int, N: int = WIDE) -> Implementation:
    """Return the kernel for this format on this device, for `num_tokens` rows of activations and N outputs."""
    return _implementation(replace(fmt, algorithm="rtn"), device, num_tokens, N, dispatch.selected())


@lru_cache(1 << 12)
def _implementation(fmt: Format, device: str, num_tokens: int, N: int, selected: str) -> Implementation:
    kind = _kind(fmt)
    if selected == "triton" and ("triton", kind) in _KINDS:
        return _KINDS["triton", kind]
    if device == "cpu" and kind in ("int8", "int4") and num_tokens <= FEW_TOKENS:
        kernel_takes_it = kind == "int8" or fmt.group_size in INT4_GROUPS
        return _KINDS[device, f"{kind} few"] if kernel_takes_it else SIMULATED
    if not _runs(kind, device, num_tokens):
        return SIMULATED
    small = _KINDS.get((device, f"{kind} small")) if num_tokens * N <= FEW_VALUES else None
    return small or _KINDS.get((device, kind), SIMULATED)


def _kind(fmt: Format) -> str:
    return replace(fmt, group_size=GROUPED.get(fmt.weights, 0), algorithm="rtn").name


def _runs(kind: str, device: str, num_tokens: int) -> bool:
    """Whether the device has what the implementation needs to be exact and fast."""
    if kind == "bf16":
        return device != "cpu" or (torch.cpu._is_amx_tile_supported() and num_tokens > FEW_TOKENS)
    if kind.startswith("int8"):
        return integer_products_are_exact(device) and (device == "cpu" or num_tokens > 16)
    if kind == "fp8":
        return device == "cuda" and torch.cuda.get_device_capability() >= (8, 9)
    return True


@cache
def integer_products_are_exact(device: str) -> bool:
    """The start-up self-test: integer products at the ends of their range, where 16-bit sums would saturate."""
    top = torch.full((32, 1024), 127, dtype=torch.int8, device=device)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (64, 1024), generator=generator, dtype=torch.int8).to(device)
    exact = all(
        torch.equal(torch._int_mm(x, w.mT).cpu().double(), x.cpu().double() @ w.cpu().double().mT)
        for x in (top, codes[:32])
        for w in (top, codes)
    )
    if device != "cpu":
        return exact
    ones, zeros = torch.ones(64, dtype=torch.float32), torch.zeros(64, dtype=torch.int32)
    packed = torch.ops.onednn.qlinear_prepack(codes, None)
    for x, zero in ((top, -128), (codes, 0), (torch.full_like(top, -128), 127)):
        rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
        y = torch.ops.onednn.qlinear_pointwise(x, 1.0, zero, packed, ones, zeros, *rest)
        exact = exact and torch.equal(y.double(), (x.double() - zero) @ codes.double().mT)
    return exact


def real_formats(device: str, num_tokens: int) -> list[str]:
    """Return the formats that have a kernel on this device for this number of rows."""
    return [n for n in CANDIDATES if implementation(Format.of(n), device, num_tokens).is_real]


def why_simulated(fmt: Format, device: str, num_tokens: int) -> str | None:
    """Return why a format's latency can't be stated, and which formats have one; None where there is a kernel."""
    if fmt == Format() or implementation(fmt, device, num_tokens).is_real:
        return None
    if fmt == Format.of(ONNX_INT8):
        return f"{fmt.name} has a kernel in onnxruntime alone, so its latency would be simulated here"
    would_do = ", ".join(["native", *real_formats(device, num_tokens)])
    return (
        f"{fmt.name} has no kernel on {device} for {num_tokens} tokens at once, so its latency would be simulated; "
        f"{would_do} would do"
    )


def why_not_offered(fmt: Format, device: str, num_tokens: int, N: int) -> str | None:
    """Return why a search for low latency excludes a format for N outputs; None where its kernel pays off."""
    least = _offered_from(device, _kind(fmt), num_tokens)
    if least <= N:
        return why_simulated(fmt, device, num_tokens)
    return (
        f"{fmt.name} pays on {device} from {least} outputs on for {num_tokens} tokens; "
        f"with {N} it is slower than bf16"
    )


def _offered_from(device: str, kind: str, num_tokens: int) -> int:
    """The stricter of the limits at the two nearest measured numbers of tokens."""
    measured = OFFERED_FROM.get((device, kind), {1: 0})
    below = max((count for count in measured if count <= num_tokens), default=min(measured))
    above = min((count for count in measured if count >= num_tokens), default=max(measured))
    return max(measured[below], measured[above])
