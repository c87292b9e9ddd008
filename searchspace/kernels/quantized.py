"""Products with weights in 4 or 8 bits, weight-only and dynamic, in the formats of primitives.integer_matmul.

Weight-only products convert the codes to the dtype of x, which is exact, and apply scales to sums in float32. The
dynamic product sums in int32, which is exact up to K = 133,000. Inference only. Shapes: x [M, K], w [N, K], y [M, N].
The public functions take x [..., K] and return [..., N]; they raise ValueError for other dtypes of x.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.products import DTYPES, dot, tile

BK = 64
ROW = 1024  # values of a row that are quantized per step
LARGEST_HALF = 64  # bytes of a group that are read per step


@triton.jit
def int4_product(
    p_x, p_packed, p_scale, p_y, M, N, K,
    GROUP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Compute one tile of y in steps of BH bytes of a group, so that a group may have any size; all contiguous."""
    HALF: tl.constexpr = GROUP // 2
    PARTS: tl.constexpr = HALF // BH
    i_m, i_n = tl.program_id(0) // tl.cdiv(N, BN), tl.program_id(0) % tl.cdiv(N, BN)
    o_m, o_n = i_m.to(tl.int64) * BM + tl.arange(0, BM), i_n.to(tl.int64) * BN + tl.arange(0, BN)
    o_k, in_m, in_n = tl.arange(0, BH), (o_m < M)[:, None], (o_n < N)[:, None]
    acc = tl.zeros([BM, BN], tl.float32)
    for part in range(0, K // GROUP * PARTS):
        g, o_g = part // PARTS, part % PARTS * BH
        place = p_x + o_m[:, None] * K + g * GROUP + o_g + o_k[None, :]
        b_low = tl.load(place, mask=in_m, other=0.0)
        b_high = tl.load(place + HALF, mask=in_m, other=0.0)
        place = p_packed + o_n[:, None] * (K // 2) + g * HALF + o_g + o_k[None, :]
        b_codes = tl.load(place, mask=in_n, other=0)
        b_scale = tl.load(p_scale + o_n * (K // GROUP) + g, mask=o_n < N, other=0.0)
        b_w_low = ((b_codes & 15).to(tl.float32) - 8.0).to(b_low.dtype)
        b_w_high = ((b_codes >> 4).to(tl.float32) - 8.0).to(b_low.dtype)
        acc += (dot(b_low, tl.trans(b_w_low)) + dot(b_high, tl.trans(b_w_high))) * b_scale[None, :]
    tl.store(p_y + o_m[:, None] * N + o_n[None, :], acc, mask=in_m & (o_n < N)[None, :])


@triton.jit
def int8_product(
    p_x, p_x_scale, p_codes, p_scale, p_y, M, N, K,
    DYNAMIC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute one tile of y; x holds values or, if DYNAMIC, int8 codes with a scale for each row."""
    i_m, i_n = tl.program_id(0) // tl.cdiv(N, BN), tl.program_id(0) % tl.cdiv(N, BN)
    o_m, o_n = i_m.to(tl.int64) * BM + tl.arange(0, BM), i_n.to(tl.int64) * BN + tl.arange(0, BN)
    in_m, in_n = (o_m < M)[:, None], (o_n < N)[:, None]
    acc = tl.zeros([BM, BN], tl.int32 if DYNAMIC else tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        in_k = (o_k < K)[None, :]
        b_x = tl.load(p_x + o_m[:, None] * K + o_k[None, :], mask=in_m & in_k, other=0)
        b_codes = tl.load(p_codes + o_n[:, None] * K + o_k[None, :], mask=in_n & in_k, other=0)
        if DYNAMIC:
            acc += tl.dot(b_x, tl.trans(b_codes), out_dtype=tl.int32)
        else:
            acc += dot(b_x, tl.trans(b_codes.to(tl.float32).to(b_x.dtype)))
    b_y = acc.to(tl.float32)
    if DYNAMIC:
        b_y = b_y * tl.load(p_x_scale + o_m, mask=o_m < M, other=0.0)[:, None]
    b_y = b_y * tl.load(p_scale + o_n, mask=o_n < N, other=0.0)[None, :]
    tl.store(p_y + o_m[:, None] * N + o_n[None, :], b_y, mask=in_m & (o_n < N)[None, :])


@triton.jit
def quantize_row(p_x, p_codes, p_scale, K, BLOCK: tl.constexpr):
    """Compute int8 codes and the scale of one row of x."""
    i_m = tl.program_id(0).to(tl.int64)
    b_top = tl.zeros([BLOCK], tl.float32)
    for k in range(0, K, BLOCK):
        o_k = k + tl.arange(0, BLOCK)
        b_x = tl.load(p_x + i_m * K + o_k, mask=o_k < K, other=0.0).to(tl.float32)
        b_top = tl.maximum(b_top, tl.abs(b_x))
    scale = tl.div_rn(tl.max(b_top, 0), 127.0)
    tl.store(p_scale + i_m, scale)
    divisor = tl.where(scale > 0.0, scale, 1.0)
    for k in range(0, K, BLOCK):
        o_k = k + tl.arange(0, BLOCK)
        b_x = tl.load(p_x + i_m * K + o_k, mask=o_k < K, other=0.0).to(tl.float32)
        # adding 1.5 * 2^23 rounds a float32 to an integer, since no bits are left for the fraction
        b_code = (tl.div_rn(b_x, tl.zeros([BLOCK], tl.float32) + divisor) + 12582912.0) - 12582912.0
        tl.store(p_codes + i_m * K + o_k, b_code.to(tl.int8), mask=o_k < K)


def int4_matmul(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """x [..., K] times packed [N, K / 2] with scale [N, K / group]. Raises ValueError unless the group is a power of
    two of at least 32 and divides K."""
    K, N = x.shape[-1], packed.shape[0]
    group = K // scale.shape[1]
    if group < 32 or group & (group - 1) or packed.shape[1] * 2 != K:
        raise ValueError(
            f"int4_matmul kernel: takes rows of whole groups, a power of two from 32 on, "
            f"got groups of {group} and {packed.shape[1] * 2} weights for {K} values"
        )
    rows, y = _rows_and_result("int4_matmul", x, N)
    BM, BN = _tile(len(rows))
    int4_product[triton.cdiv(N, BN) * triton.cdiv(len(rows), BM),](
        rows, packed.contiguous(), scale.contiguous(), y, len(rows), N, K,
        GROUP=group, BM=BM, BN=BN, BH=min(group // 2, LARGEST_HALF), num_stages=3,
    )  # fmt: skip
    return y.view(*x.shape[:-1], N)


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [..., K] times int8 codes [N, K] with scale [N]."""
    rows, y = _rows_and_result("int8_matmul", x, len(codes))
    return _int8(rows, None, codes, scale, y).view(*x.shape[:-1], -1)


def dynamic_int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [..., K], quantized to int8 by row, times int8 codes [N, K] with scale [N]."""
    rows, y = _rows_and_result("dynamic_int8_matmul", x, len(codes))
    x_codes = torch.empty_like(rows, dtype=torch.int8)
    x_scale = torch.empty(len(rows), device=x.device, dtype=torch.float32)
    quantize_row[len(rows),](rows, x_codes, x_scale, x.shape[-1], BLOCK=ROW)
    return _int8(x_codes, x_scale, codes, scale, y).view(*x.shape[:-1], -1)


def _int8(x: Tensor, x_scale: Tensor | None, codes: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    (M, K), N = x.shape, len(codes)
    BM, BN = _tile(M)
    int8_product[triton.cdiv(N, BN) * triton.cdiv(M, BM),](
        x, scale if x_scale is None else x_scale, codes.contiguous(), scale, y, M, N, K,
        DYNAMIC=x_scale is not None, BM=BM, BN=BN, BK=BK, num_stages=3,
    )  # fmt: skip
    return y


def _rows_and_result(name: str, x: Tensor, N: int) -> tuple[Tensor, Tensor]:
    if x.dtype not in DTYPES:
        raise ValueError(f"{name} kernel: takes float32, float16 or bfloat16, got {x.dtype}")
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return rows, torch.empty(len(rows), N, device=x.device, dtype=x.dtype)


def _tile(M: int) -> tuple[int, int]:
    """(BM, BN); with few tokens BN is small, so that many programs read weights in parallel."""
    return (tile(M, 16), 32) if M <= 16 else (tile(M, 64), 64)


def _cases() -> tuple[Case, ...]:
    found = []
    sizes = {"N": 4096, "K": 4096}  # constants, so that the compiler sees their alignment
    for M in (1, 512):
        BM, BN = _tile(M)
        for group in (32, 128, 2048):
            signature = {"p_x": "*bf16", "p_packed": "*u8", "p_scale": "*fp32", "p_y": "*bf16", "M": "i32"}
            constants = {"GROUP": group, "BM": BM, "BN": BN, "BH": min(group // 2, LARGEST_HALF)} | sizes
            found.append(Case(int4_product, signature, constants, num_stages=3, label=f"M{M} group {group}"))
        for is_dynamic in (False, True):
            signature = {
                "p_x": "*i8" if is_dynamic else "*bf16",
                "p_codes": "*i8",
                "p_y": "*bf16",
                "M": "i32",
            }
            signature |= {"p_x_scale": "*fp32", "p_scale": "*fp32"}
            constants = {"DYNAMIC": is_dynamic, "BM": BM, "BN": BN, "BK": BK} | sizes
            label = f"M{M} {'dynamic' if is_dynamic else 'weight-only'}"
            found.append(Case(int8_product, signature, constants, num_stages=3, label=label))
    pointers = {"p_x": "*bf16", "p_codes": "*i8", "p_scale": "*fp32"}
    found.append(Case(quantize_row, pointers, {"K": 4096, "BLOCK": ROW}))
    return tuple(found)


CASES = _cases()
