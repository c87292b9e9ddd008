"""Attention of a few new queries to a cache: the keys are split among programs and the partial results merged exactly.

    l = log sum_p exp(l_p)      y = sum_p exp(l_p - l) y_p

The heads of a group and the new tokens are the rows of one product, so that keys and values are read once. Inference
only. Shapes as in searchspace.kernels.attention; P parts.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.attention_parts import dot, key_tiles, partial_tile, rows, sees
from searchspace.kernels.products import INTERPRETED, tile
from searchspace.kernels.tiles import LOG2_E, num_multiprocessors

MAX_ROWS = 64  # largest number of new tokens times heads per group


@triton.jit
def attention_decode_part(
    p_q, p_k, p_v, p_y, p_lse, p_valid,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_ks, stride_kg, stride_vb, stride_vs, stride_vg,
    B, T, S, H, R, window, sinks, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Attend to one part of the keys of one group; y [P, B, T, H, V] and lse [P, B, T, H] are contiguous."""
    G = H // R
    i_p, i_b, i_g = tl.program_id(0), (tl.program_id(1) // G).to(tl.int64), tl.program_id(1) % G
    o_m, o_k, o_v = tl.arange(0, BM), tl.arange(0, BK), tl.arange(0, BV)
    o_t, o_h, inside = o_m // R, i_g * R + o_m % R, o_m < T * R
    p_k += i_b * stride_kb + i_g * stride_kg
    p_v += i_b * stride_vb + i_g * stride_vg
    p_valid += i_b * S
    place = p_q + i_b * stride_qb + (o_t * stride_qt + o_h * stride_qh)[:, None] + o_k[None, :]
    q = tl.load(place, mask=inside[:, None] & (o_k < K)[None, :], other=0.0)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, BV], tl.float32)
    of_sinks, start, _, _, end = key_tiles(S - T, S - 1, S, window, sinks, CAUSAL, WINDOWED, PADDED, BS)
    num_tiles = (of_sinks + end - start) // BS
    share = tl.cdiv(num_tiles, tl.num_programs(0))
    for step in range(i_p * share, tl.minimum((i_p + 1) * share, num_tiles)):
        o_s = partial_tile(step, of_sinks, start, end, end, BS) + tl.arange(0, BS)
        k = rows(p_k, o_s, stride_ks, S, K, BK, True)
        v = rows(p_v, o_s, stride_vs, S, V, BV, True)
        seen = sees((o_t + S - T)[:, None], o_s[None, :], S, window, sinks, p_valid, CAUSAL, WINDOWED, PADDED)
        scores = tl.where(seen, dot(q, tl.trans(k)) * scale, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        level = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - level[:, None])
        decay = tl.exp2(top - level)
        acc = acc * decay[:, None] + dot(weights.to(v.dtype), v)
        total = total * decay + tl.sum(weights, 1)
        top = new_top
    blind = total == 0.0
    total = tl.where(blind, 1.0, total)
    row = ((i_p * B + i_b) * T + o_t) * H + o_h
    tl.store(
        p_y + row[:, None] * V + o_v[None, :], acc / total[:, None], mask=inside[:, None] & (o_v < V)[None, :]
    )
    lse = (top + tl.log2(total)) * 0.6931471805599453
    tl.store(p_lse + row, tl.where(blind, float("-inf"), lse), mask=inside)


@triton.jit
def attention_merge(
    p_parts, p_lses, p_y, p_lse, N, P, V: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Merge parts [P, N, V] with log-sum-exps [P, N] to y [N, V] and lse [N]."""
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    top = tl.full([BN], float("-inf"), tl.float32)
    total = tl.zeros([BN], tl.float32)
    acc = tl.zeros([BN, BV], tl.float32)
    for p in range(P):
        lse = tl.load(p_lses + p * N + o_n, mask=o_n < N, other=float("-inf"))
        new_top = tl.maximum(top, lse)
        level = tl.where(new_top == float("-inf"), 0.0, new_top)
        decay, weight = tl.exp(top - level), tl.exp(lse - level)
        acc = acc * decay[:, None] + weight[:, None] * rows(p_parts, p * N + o_n, V, P * N, V, BV, True)
        total = total * decay + weight
        top = new_top
    blind = total == 0.0
    total = tl.where(blind, 1.0, total)
    o_v = tl.arange(0, BV)
    tl.store(
        p_y + o_n[:, None] * V + o_v[None, :],
        acc / total[:, None],
        mask=(o_n < N)[:, None] & (o_v < V)[None, :],
    )
    tl.store(p_lse + o_n, tl.where(blind, float("-inf"), top + tl.log(total)), mask=o_n < N)


def attention_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int = 0,
    sinks: int = 0,
    valid: Tensor | None = None,
    num_parts: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(y [B, T, H, V], lse [B, T, H]) for T * H / G up to MAX_ROWS; valid [B, S] is uint8 and contiguous."""
    B, T, H, K = q.shape
    S, G, V = v.shape[1:]
    BM, BS = tile(T * (H // G), MAX_ROWS), tile_of_keys(K, q.dtype)
    if num_parts is None:
        num_parts = max(1, min(2 * num_multiprocessors(q.device) // (B * G), triton.cdiv(S, 2 * BS)))
    shape, options = (num_parts, B, T, H), {"device": q.device, "dtype": torch.float32}
    parts = torch.empty(*shape, V, **options | ({"dtype": q.dtype} if num_parts == 1 else {}))  # type: ignore[call-overload]
    lses = torch.empty(shape, **options)  # type: ignore[call-overload]
    attention_decode_part[num_parts, B * G](
        q, k, v, parts, lses, q if valid is None else valid, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        B, T, S, H, H // G, window, sinks, LOG2_E / math.sqrt(K),
        K=K, V=V, BK=tile(K, 256), BV=tile(V, 256), BM=BM, BS=BS, CAUSAL=causal, WINDOWED=window > 0,
        PADDED=valid is not None,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    if num_parts == 1:
        return parts[0], lses[0]
    y, lse = torch.empty(B, T, H, V, device=q.device, dtype=q.dtype), torch.empty_like(lses[0])
    N, BN = B * T * H, 8
    attention_merge[triton.cdiv(N, BN),](
        parts, lses, y, lse, N, num_parts, V=V, BV=tile(V, 256), BN=BN, num_warps=4
    )
    return y, lse


def tile_of_keys(K: int, dtype: torch.dtype) -> int:
    """The number of keys in a tile: 16 KB of them, or 8 KB in float32, whose products take more registers."""
    return 16 if INTERPRETED else max(16, min(128, 2**15 // (dtype.itemsize**2 * tile(K, 256))))


def _cases() -> tuple[Case, ...]:
    found = []
    for K, dtype in ((128, "bf16"), (256, "bf16"), (128, "fp32")):
        pointers = dict.fromkeys(("p_q", "p_k", "p_v"), "*" + dtype) | {"p_valid": "*u8", "scale": "fp32"}
        pointers |= {"p_y": "*fp32", "p_lse": "*fp32"}
        pointers |= dict.fromkeys(("B", "T", "S", "H", "R", "window", "sinks"), "i32")
        BS = tile_of_keys(K, torch.float32 if dtype == "fp32" else torch.bfloat16)
        constants = dict.fromkeys(("K", "V", "BK", "BV"), K) | {"BM": 16, "BS": BS}
        constants |= {"CAUSAL": True, "WINDOWED": True, "PADDED": False}
        constants |= {name: 4096 for name in attention_decode_part.arg_names if name.startswith("stride_")}
        found.append(Case(attention_decode_part, pointers, constants, label=f"{dtype} K{K}"))
    pointers = {
        "p_parts": "*fp32",
        "p_lses": "*fp32",
        "p_y": "*bf16",
        "p_lse": "*fp32",
        "N": "i32",
        "P": "i32",
    }
    return (*found, Case(attention_merge, pointers, {"V": 128, "BV": 128, "BN": 8}))


CASES = _cases()
