"""Low-bit number formats: rounding and reading back, as pure functions. Rounding is to the nearest.

    rows      a scale per row, codes -127..127, zero is zero; see integer_matmul.quantize_rows
    reduced   as rows, with codes -64..64: sums of two products with codes 0..255 fit 16 bits, on every processor
    affine    one scale and zero point for all: x = scale (code - zero), codes -128..127
    tensor    as affine, with codes 0..255, from the values themselves, as in ONNX's DynamicQuantizeLinear
    groups    for each `group` neighbours of a row a scale and an offset: w = scale (code - 2^(bits - 1)) + offset
    blocks    for each `block` neighbours a power of two: x = 2^exponent code; an incomplete block is filled with zeros
    fp8       e4m3 with a scale per row

The last axis is the one that a matrix product sums over. Scales and offsets of groups are bfloat16, so that int4 in
groups of 64 takes 0.14 of float32. Blocks with shared exponents: BCT, Blockwise Compression of Transformers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.integer_matmul import quantize_rows
from searchspace.spec.arch import Format

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
REDUCED_MAX = 64
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def quantize_groups(weight: Tensor, group: int, bits: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return (codes uint8 [N, K'], scale, offset [N, K' / group]) of weights [N, K]; K' is K in whole groups."""
    groups = whole(weight.float(), group).unflatten(-1, (-1, group))
    scale, offset = group_range(groups, bits)
    return group_codes(groups, scale, offset, bits).flatten(-2), scale, offset


def group_range(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return (scale, offset) [...] in bfloat16 that span each group [..., group]."""
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / (2**bits - 1)).bfloat16()
    return scale, (low + scale.float() * 2 ** (bits - 1)).bfloat16()


def group_codes(groups: Tensor, scale: Tensor, offset: Tensor, bits: int) -> Tensor:
    """Return codes uint8 [..., group] of groups [..., group]; scale and offset are [...]."""
    s, z = scale.float().unsqueeze(-1), offset.float().unsqueeze(-1)
    codes = ((groups - z) / torch.where(s > 0, s, 1.0)).round() + 2 ** (bits - 1)
    return codes.clamp(0, 2**bits - 1).to(torch.uint8)


def dequantize_groups(codes: Tensor, scale: Tensor, offset: Tensor, bits: int = 4) -> Tensor:
    """Return the weights [N, K'] in float32, for codes [N, K'], scale and offset [N, K' / group]."""
    values = codes.unflatten(-1, (scale.shape[-1], -1)).float() - 2 ** (bits - 1)
    return (values * scale.float().unsqueeze(-1) + offset.float().unsqueeze(-1)).flatten(-2)


def pack_pairs(codes: Tensor, group: int) -> Tensor:
    """Pack two 4-bit codes per byte, [N, K] -> [N, K / 2]: byte i of a group has codes i and i + group / 2."""
    low, high = codes.unflatten(-1, (-1, group)).chunk(2, -1)
    return (low | high << 4).flatten(-2)


def unpack_pairs(packed: Tensor, group: int) -> Tensor:
    """Unpack the codes of `pack_pairs`, [N, K / 2] -> [N, K]."""
    halves = packed.unflatten(-1, (-1, group // 2))
    return torch.cat((halves & 15, halves >> 4), -1).flatten(-2)


def quantize_blocks(x: Tensor, block: int, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Return (codes int8 [..., K'], exponent int8 [..., K' / block]) of x [..., K]."""
    blocks = whole(x.float(), block).unflatten(-1, (-1, block))
    top = 2 ** (bits - 1) - 1
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1) / top).clamp(-126, 127))
    codes = (blocks / torch.exp2(exponent).unsqueeze(-1)).round().clamp(-top, top)
    return codes.to(torch.int8).flatten(-2), exponent.to(torch.int8)


def dequantize_blocks(codes: Tensor, exponent: Tensor) -> Tensor:
    """Return the values [..., K'] in float32, for codes [..., K'] and exponent [..., K' / block]."""
    blocks = codes.unflatten(-1, (exponent.shape[-1], -1)).float()
    return (blocks * torch.exp2(exponent.float()).unsqueeze(-1)).flatten(-2)


def affine_range(low: float, high: float) -> tuple[float, int]:
    """Return (scale, zero point -128..127) of codes -128..127 that span low..high and 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, round(-low / scale) - 128


def quantize_affine(x: Tensor, scale: float, zero: int) -> Tensor:
    """Return int8 codes [...] of x [...] in few passes; a conversion to uint8 takes seven times as long."""
    codes = torch.add(torch.tensor(float(zero)), x.float(), alpha=1.0 / scale)
    return codes.round_().clamp_(-128, 127).to(torch.int8)


def quantize_reduced(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (int8 codes -64..64 [N, K], scale [N] float32), as onnxruntime.quantization rounds with reduce_range."""
    scale = weight.float().abs().amax(-1) / REDUCED_MAX
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    return (weight.float() / scale.unsqueeze(-1)).round().to(torch.int8), scale


def quantize_tensor(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (code - zero [...], integers in float32, scale []) of all of x by ONNX's DynamicQuantizeLinear."""
    low, high = x.float().amin().clamp_max(0.0), x.float().amax().clamp_min(0.0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    zero = (-low / scale).round()
    return ((x.float() / scale).round() + zero).clamp(0, 255) - zero, scale


def quantize_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (e4m3 [..., K], scale [...] float32) of x [..., K]."""
    scale = x.float().abs().amax(-1) / FP8_MAX
    return (x.float() / torch.where(scale > 0, scale, 1.0).unsqueeze(-1)).to(FP8), scale


def whole(x: Tensor, group: int) -> Tensor:
    """Pad x [..., K] with zeros to whole groups."""
    missing = -x.shape[-1] % group
    return F.pad(x, (0, missing)) if missing else x


def stored(weight: Tensor, fmt: Format) -> dict[str, Tensor]:
    """Return what is stored of a weight [N, K], by name; rounded to the nearest whatever the algorithm."""
    if fmt.weights in DTYPES:
        return {"weight": weight.to(DTYPES[fmt.weights])}
    if fmt.weights == "int4":
        codes, scale, offset = quantize_groups(weight, fmt.group_size)
        return {"packed": pack_pairs(codes, fmt.group_size), "scale": scale, "offset": offset}
    if fmt.weights == "bct":
        codes, exponent = quantize_blocks(weight, fmt.group_size)
        return {"codes": codes, "exponent": exponent}
    by_row = {"fp8": quantize_fp8, "int7": quantize_reduced}.get(fmt.weights, quantize_rows)
    codes, scale = by_row(weight)
    return {"codes": codes, "scale": scale}


def empty(N: int, K: int, fmt: Format) -> dict[str, Tensor]:
    """Return tensors like those of `stored` for a weight [N, K], without values.

    Rounding on the meta device would give these too, but makes torch import its compiler.
    """
    if fmt.weights in DTYPES:
        return {"weight": torch.empty(N, K, dtype=DTYPES[fmt.weights])}
    groups = -(-K // (fmt.group_size or K))
    if fmt.weights == "int4":
        packed = torch.empty(N, groups * fmt.group_size // 2, dtype=torch.uint8)
        return {"packed": packed} | {
            n: torch.empty(N, groups, dtype=torch.bfloat16) for n in ("scale", "offset")
        }
    if fmt.weights == "bct":
        codes = torch.empty(N, groups * fmt.group_size, dtype=torch.int8)
        return {"codes": codes, "exponent": torch.empty(N, groups, dtype=torch.int8)}
    codes = torch.empty(N, K, dtype=FP8 if fmt.weights == "fp8" else torch.int8)
    return {"codes": codes, "scale": torch.empty(N, dtype=torch.float32)}


def read(tensors: dict[str, Tensor], fmt: Format, K: int) -> Tensor:
    """Return the weights [N, K] in float32 of the tensors that `stored` returned."""
    if fmt.weights in DTYPES:
        return tensors["weight"].float()
    if fmt.weights == "int4":
        codes = unpack_pairs(tensors["packed"], fmt.group_size)
        return dequantize_groups(codes, tensors["scale"], tensors["offset"])[:, :K]
    if fmt.weights == "bct":
        return dequantize_blocks(tensors["codes"], tensors["exponent"])[:, :K]
    return tensors["codes"].float() * tensors["scale"].unsqueeze(-1)


def rounded_weight(weight: Tensor, fmt: Format) -> Tensor:
    """Return `weight` [N, K] as the format reads it back, in its dtype, with a straight-through gradient."""
    read_back = read(stored(weight.detach(), fmt), fmt, weight.shape[1]).to(weight.dtype)
    return weight + (read_back - weight).detach()
