"""Softmax attention that reads only visible keys: sliding window, sinks, block masks per head, padding.

    s_ij = q_i . k_j / sqrt(K)      l_i = log sum_j exp(s_ij)      y_i = sum_j exp(s_ij - l_i) v_j

Query i has position S - T + i among the keys, as with a cache. The softmax is computed online in float32 (Milakov and
Gimelshein, arXiv:1805.02867); the backward pass recomputes the scores from l (Dao et al., arXiv:2205.14135) without
atomics, so it is deterministic. A query that sees no key has y = 0 and l = -inf. l has a gradient, so that attention
over parts of the keys can be merged exactly. Tiles that are entirely visible are not masked.
Shapes: q [B, T, H, K], k [B, S, G, K], v [B, S, G, V], l [B, T, H]; H = G R heads in G key/value groups.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.attention_decode import CASES as DECODE_CASES
from searchspace.kernels.attention_decode import MAX_ROWS, attention_decode
from searchspace.kernels.attention_parts import (
    dot,
    key_tiles,
    listed_tile,
    partial_tile,
    query_tiles,
    rows,
    sees,
)
from searchspace.kernels.block_lists import TILE, BlockMask
from searchspace.kernels.products import DTYPES, in_batches, tile
from searchspace.kernels.tiles import LOG2_E, Tile, attention_tile, capability, widest_head


@triton.jit
def _softmax_step(
    q, top, total, acc, p_k, p_v, o_s, seen, S, scale, stride_ks, stride_vs, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Update the running maximum, sum and output with one tile of keys; `scale` includes log2(e)."""
    k = rows(p_k, o_s, stride_ks, S, K, BK, MASKED)
    scores = dot(q, tl.trans(k)) * scale
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    level = tl.where(new_top == float("-inf"), 0.0, new_top) if MASKED else new_top
    weights = tl.exp2(scores - level[:, None])
    decay = tl.exp2(top - level)
    v = rows(p_v, o_s, stride_vs, S, V, BV, MASKED)
    acc = acc * decay[:, None] + dot(weights.to(v.dtype), v)
    return new_top, total * decay + tl.sum(weights, 1), acc


@triton.jit
def attention_forward(
    p_q, p_k, p_v, p_y, p_lse, p_valid, p_starts, p_blocks, p_bits,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_ks, stride_kg, stride_vb, stride_vs, stride_vg,
    T, S, H, R, heads_per_mask, window, sinks, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Compute one tile of queries of one head; y [B, T, H, V] and lse [B, T, H] are contiguous."""
    i_t, i_b, i_h = tl.program_id(0), (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    o_t, shift = i_t * BT + tl.arange(0, BT), S - T
    p_k += i_b * stride_kb + (i_h // R) * stride_kg
    p_v += i_b * stride_vb + (i_h // R) * stride_vg
    p_valid += i_b * S
    q = rows(p_q + i_b * stride_qb + i_h * stride_qh, o_t, stride_qt, T, K, BK, True)
    top = tl.full([BT], float("-inf"), tl.float32)
    total = tl.zeros([BT], tl.float32)
    acc = tl.zeros([BT, BV], tl.float32)
    if LISTED:
        p_starts += (i_h // heads_per_mask) * (tl.num_programs(0) + 1) + i_t
        entry, entries_end = tl.load(p_starts), tl.load(p_starts + 1)
        steps = tl.cdiv((entries_end - entry) * BLOCK, BS)
    else:
        first = i_t * BT + shift
        of_sinks, start, whole, whole_end, end = key_tiles(
            first, first + BT - 1, S, window, sinks, CAUSAL, WINDOWED, PADDED, BS
        )
        steps = (of_sinks + whole - start + end - whole_end) // BS
        for s in range(whole, whole_end, BS):
            top, total, acc = _softmax_step(
                q, top, total, acc, p_k, p_v, s + tl.arange(0, BS), True, S, scale, stride_ks, stride_vs,
                K, V, BK, BV, False,
            )  # fmt: skip
    for step in range(0, steps):
        if LISTED:
            o_s, bits = listed_tile(p_blocks, p_bits, entry + step * (BS // BLOCK), entries_end, BLOCK, BS)
        else:
            o_s = partial_tile(step, of_sinks, start, whole, whole_end, BS) + tl.arange(0, BS)
        seen = sees((o_t + shift)[:, None], o_s[None, :], S, window, sinks, p_valid, CAUSAL, WINDOWED, PADDED)
        if LISTED:
            seen = seen & (((bits[None, :] >> (o_t % BT // BLOCK)[:, None]) & 1) != 0)
        top, total, acc = _softmax_step(
            q, top, total, acc, p_k, p_v, o_s, seen, S, scale, stride_ks, stride_vs, K, V, BK, BV, True,
        )  # fmt: skip
    blind = total == 0.0
    total = tl.where(blind, 1.0, total)
    row, o_v = (i_b * T + o_t) * H + i_h, tl.arange(0, BV)
    tl.store(
        p_y + row[:, None] * V + o_v[None, :],
        acc / total[:, None],
        mask=(o_t < T)[:, None] & (o_v < V)[None, :],
    )
    lse = (top + tl.log2(total)) * 0.6931471805599453
    tl.store(p_lse + row, tl.where(blind, float("-inf"), lse), mask=o_t < T)


@triton.jit
def attention_deltas(
    p_y, p_dy, p_dlse, p_delta, N, V: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """delta [N] = y . dy - dlse, which the softmax's gradient subtracts from the gradient of each weight of a row."""
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    y = rows(p_y, o_n, V, N, V, BV, True).to(tl.float32)
    dy = rows(p_dy, o_n, V, N, V, BV, True).to(tl.float32)
    dlse = tl.load(p_dlse + o_n, mask=o_n < N, other=0.0)
    tl.store(p_delta + o_n, tl.sum(y * dy, 1) - dlse, mask=o_n < N)


@triton.jit
def _query_gradient_step(
    dq, q, dy, level, delta, p_k, p_v, o_s, seen, S, scale, stride_ks, stride_vs, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    k = rows(p_k, o_s, stride_ks, S, K, BK, MASKED)
    v = rows(p_v, o_s, stride_vs, S, V, BV, MASKED)
    scores = dot(q, tl.trans(k)) * scale
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    weights = tl.exp2(scores - level[:, None])
    ds = weights * (dot(dy, tl.trans(v)) - delta[:, None])
    return dq + dot(ds.to(k.dtype), k)


@triton.jit
def attention_query_gradient(
    p_q, p_k, p_v, p_dy, p_lse, p_delta, p_dq, p_valid, p_starts, p_blocks, p_bits,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_ks, stride_kg, stride_vb, stride_vs, stride_vg,
    T, S, H, R, heads_per_mask, window, sinks, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Compute dq [B, T, H, K] of one tile of queries of one head; dy [B, T, H, V] is contiguous."""
    i_t, i_b, i_h = tl.program_id(0), (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    o_t, shift = i_t * BT + tl.arange(0, BT), S - T
    p_k += i_b * stride_kb + (i_h // R) * stride_kg
    p_v += i_b * stride_vb + (i_h // R) * stride_vg
    p_valid += i_b * S
    q = rows(p_q + i_b * stride_qb + i_h * stride_qh, o_t, stride_qt, T, K, BK, True)
    dy = rows(p_dy + (i_b * T * H + i_h) * V, o_t, H * V, T, V, BV, True)
    row = (i_b * T + o_t) * H + i_h
    delta = tl.load(p_delta + row, mask=o_t < T, other=0.0)
    level = tl.load(p_lse + row, mask=o_t < T, other=float("-inf")) * 1.4426950408889634
    level = tl.where(level == float("-inf"), float("inf"), level)
    dq = tl.zeros([BT, BK], tl.float32)
    if LISTED:
        p_starts += (i_h // heads_per_mask) * (tl.num_programs(0) + 1) + i_t
        entry, entries_end = tl.load(p_starts), tl.load(p_starts + 1)
        steps = tl.cdiv((entries_end - entry) * BLOCK, BS)
    else:
        first = i_t * BT + shift
        of_sinks, start, whole, whole_end, end = key_tiles(
            first, first + BT - 1, S, window, sinks, CAUSAL, WINDOWED, PADDED, BS
        )
        steps = (of_sinks + whole - start + end - whole_end) // BS
        for s in range(whole, whole_end, BS):
            dq = _query_gradient_step(
                dq, q, dy, level, delta, p_k, p_v, s + tl.arange(0, BS), True, S, scale, stride_ks, stride_vs,
                K, V, BK, BV, False,
            )  # fmt: skip
    for step in range(0, steps):
        if LISTED:
            o_s, bits = listed_tile(p_blocks, p_bits, entry + step * (BS // BLOCK), entries_end, BLOCK, BS)
        else:
            o_s = partial_tile(step, of_sinks, start, whole, whole_end, BS) + tl.arange(0, BS)
        seen = sees((o_t + shift)[:, None], o_s[None, :], S, window, sinks, p_valid, CAUSAL, WINDOWED, PADDED)
        if LISTED:
            seen = seen & (((bits[None, :] >> (o_t % BT // BLOCK)[:, None]) & 1) != 0)
        dq = _query_gradient_step(
            dq, q, dy, level, delta, p_k, p_v, o_s, seen, S, scale, stride_ks, stride_vs, K, V, BK, BV, True,
        )  # fmt: skip
    o_k = tl.arange(0, BK)
    dq = dq * (scale * 0.6931471805599453)
    tl.store(p_dq + row[:, None] * K + o_k[None, :], dq, mask=(o_t < T)[:, None] & (o_k < K)[None, :])


@triton.jit
def _key_gradient_step(
    dk, dv, k, v, p_q, p_dy, p_lse, p_delta, o_t, seen, T, H, scale, stride_qt, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Scores are [BS, BT] here, so that no product has to be transposed."""
    q = rows(p_q, o_t, stride_qt, T, K, BK, MASKED)
    dy = rows(p_dy, o_t, H * V, T, V, BV, MASKED)
    level = tl.load(p_lse + o_t.to(tl.int64) * H, mask=o_t < T, other=float("-inf")) * 1.4426950408889634
    delta = tl.load(p_delta + o_t.to(tl.int64) * H, mask=o_t < T, other=0.0)
    level = tl.where(level == float("-inf"), float("inf"), level)
    scores = dot(k, tl.trans(q)) * scale
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    weights = tl.exp2(scores - level[None, :])
    dv += dot(weights.to(dy.dtype), dy)
    ds = weights * (dot(v, tl.trans(dy)) - delta[None, :])
    return dk + dot(ds.to(q.dtype), q), dv


@triton.jit
def attention_key_gradient(
    p_q, p_k, p_v, p_dy, p_lse, p_delta, p_dk, p_dv, p_valid, p_starts, p_blocks, p_bits,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_ks, stride_kg, stride_vb, stride_vs, stride_vg,
    T, S, H, R, heads_per_mask, window, sinks, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Compute dk [B, S, G, K] and dv [B, S, G, V] of one tile of keys of one group, summed over the group's heads."""
    G = H // R
    i_s, i_b, i_g = tl.program_id(0), (tl.program_id(1) // G).to(tl.int64), tl.program_id(1) % G
    o_s, shift = i_s * BS + tl.arange(0, BS), S - T
    k = rows(p_k + i_b * stride_kb + i_g * stride_kg, o_s, stride_ks, S, K, BK, True)
    v = rows(p_v + i_b * stride_vb + i_g * stride_vg, o_s, stride_vs, S, V, BV, True)
    p_valid += i_b * S
    dk, dv = tl.zeros([BS, BK], tl.float32), tl.zeros([BS, BV], tl.float32)
    for i_h in range(i_g * R, i_g * R + R):
        p_qh, p_dyh = p_q + i_b * stride_qb + i_h * stride_qh, p_dy + (i_b * T * H + i_h) * V
        p_lseh, p_deltah = p_lse + i_b * T * H + i_h, p_delta + i_b * T * H + i_h
        if LISTED:
            p_start = p_starts + (i_h // heads_per_mask) * (tl.num_programs(0) + 1) + i_s
            entry, entries_end = tl.load(p_start), tl.load(p_start + 1)
            steps = tl.cdiv((entries_end - entry) * BLOCK, BT)
        else:
            start, whole, whole_end, end = query_tiles(
                i_s * BS, i_s * BS + BS - 1, T, shift, window, sinks, CAUSAL, WINDOWED, PADDED, BT
            )
            steps = (whole - start + end - whole_end) // BT
            for t in range(whole, whole_end, BT):
                dk, dv = _key_gradient_step(
                    dk, dv, k, v, p_qh, p_dyh, p_lseh, p_deltah, t + tl.arange(0, BT), True, T, H, scale, stride_qt,
                    K, V, BK, BV, False,
                )  # fmt: skip
        for step in range(0, steps):
            if LISTED:
                o_t, bits = listed_tile(
                    p_blocks, p_bits, entry + step * (BT // BLOCK), entries_end, BLOCK, BT
                )
            else:
                o_t = partial_tile(step, 0, start, whole, whole_end, BT) + tl.arange(0, BT)
            seen = sees(
                (o_t + shift)[None, :], o_s[:, None], S, window, sinks, p_valid, CAUSAL, WINDOWED, PADDED
            )
            if LISTED:
                seen = seen & (((bits[None, :] >> (o_s % BS // BLOCK)[:, None]) & 1) != 0)
            dk, dv = _key_gradient_step(
                dk, dv, k, v, p_qh, p_dyh, p_lseh, p_deltah, o_t, seen, T, H, scale, stride_qt, K, V, BK, BV, True,
            )  # fmt: skip
    row = (i_b * S + o_s) * G + i_g
    o_k, o_v, inside = tl.arange(0, BK), tl.arange(0, BV), (o_s < S)[:, None]
    dk = dk * (scale * 0.6931471805599453)
    tl.store(p_dk + row[:, None] * K + o_k[None, :], dk, mask=inside & (o_k < K)[None, :])
    tl.store(p_dv + row[:, None] * V + o_v[None, :], dv, mask=inside & (o_v < V)[None, :])


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = True,
    window: int = 0,
    sinks: int = 0,
    valid: Tensor | None = None,
    blocks: BlockMask | None = None,
) -> tuple[Tensor, Tensor]:
    """(y [B, T, H, V], lse [B, T, H] in float32); causal, window and sinks as in `primitives.scores.Visibility`.

    q [B, T, H, K], k [B, S, G, K], v [B, S, G, V]; valid [B, S] is False at padding. `blocks` hides further pairs, with
    one mask for all heads, each group or each head, and requires T = S. Raises ValueError for unsupported operands.
    """
    _refuse(q, k, v, blocks)
    run = partial(_attention, causal=causal, window=window, sinks=sinks, blocks=blocks)
    y, lse = in_batches(run, q.shape[2], q, k, v, valid)
    return y, lse


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    causal: bool,
    window: int,
    sinks: int,
    blocks: BlockMask | None,
) -> tuple[Tensor, Tensor]:
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    mask = None if valid is None else valid.to(torch.uint8).contiguous()
    is_trained = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    if blocks is None and not is_trained and q.shape[1] * q.shape[2] // k.shape[2] <= MAX_ROWS:
        return attention_decode(q, k, v, causal, window, sinks, mask)
    y, lse = _Attention.apply(q, k, v, causal, window, sinks, mask, blocks)
    return y, lse


def _refuse(q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask | None) -> None:
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"attention kernel: q, k and v share one of float16, bfloat16, float32, got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    if max(q.shape[3], v.shape[3]) > widest_head(q.dtype):
        raise ValueError(
            f"attention kernel: heads have at most {widest_head(q.dtype)} channels in {q.dtype}, "
            f"got {q.shape[3]} and {v.shape[3]}"
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"attention kernel: heads come in {k.shape[2]} equal groups, got {q.shape[2]} heads")
    if blocks is not None and (q.shape[1] != k.shape[1] or q.shape[2] % blocks.num_masks):
        raise ValueError(
            f"attention kernel: block masks are for as many queries as keys and a divisor of the heads, "
            f"got {q.shape[1]}, {k.shape[1]} and {blocks.num_masks} masks for {q.shape[2]} heads"
        )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *rule: Any) -> tuple[Tensor, Tensor]:
        B, T, H, _ = q.shape
        y = torch.empty(B, T, H, v.shape[3], device=q.device, dtype=q.dtype)
        lse = torch.empty(B, T, H, device=q.device, dtype=torch.float32)
        _launch(attention_forward, "forward", (q, k, v, y, lse), *rule)
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.rule = rule
        return y, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, lse = ctx.saved_tensors
        N, V = lse.numel(), v.shape[3]
        dy, delta = dy.contiguous(), torch.empty_like(lse)
        attention_deltas[triton.cdiv(N, 32),](y, dy, dlse.contiguous(), delta, N, V=V, BV=tile(V, 256), BN=32)
        dq, dk, dv = (torch.empty(t.shape, device=t.device, dtype=t.dtype) for t in (q, k, v))
        _launch(attention_query_gradient, "queries", (q, k, v, dy, lse, delta, dq), *ctx.rule)
        _launch(attention_key_gradient, "keys", (q, k, v, dy, lse, delta, dk, dv), *ctx.rule)
        return dq, dk, dv, None, None, None, None, None


def _launch(
    kernel: Any,
    kind: str,
    tensors: tuple[Tensor, ...],
    causal: bool,
    window: int,
    sinks: int,
    valid: Tensor | None,
    blocks: BlockMask | None,
) -> None:
    q, k, v = tensors[:3]
    (B, T, H, K), (S, G, V) = q.shape, v.shape[1:]
    sizes = attention_tile(kind, max(K, V), q.dtype, capability(q.device))
    if blocks is None:
        lists = (q, q, q)
    else:
        sizes = _listed(sizes, kind, blocks)
        chosen = blocks.queries if kind == "keys" else blocks.keys
        lists = (chosen.starts, chosen.blocks, chosen.bits)
    grid = (triton.cdiv(S, sizes.BS), B * G) if kind == "keys" else (triton.cdiv(T, sizes.BT), B * H)
    kernel[grid](
        *tensors, q if valid is None else valid, *lists, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        T, S, H, H // G, H // (1 if blocks is None else blocks.num_masks), window, sinks, LOG2_E / math.sqrt(K),
        K=K, V=V, BK=tile(K, 256), BV=tile(V, 256), BT=sizes.BT, BS=sizes.BS,
        BLOCK=16 if blocks is None else blocks.block,
        CAUSAL=causal, WINDOWED=window > 0, PADDED=valid is not None, LISTED=blocks is not None,
        num_warps=sizes.num_warps, num_stages=sizes.num_stages,
    )  # fmt: skip


def _listed(sizes: Tile, kind: str, blocks: BlockMask) -> Tile:
    """The tile with its outer side replaced by that of the block lists and an inner side of whole blocks."""
    if kind == "keys":
        return sizes._replace(BS=blocks.tile, BT=max(sizes.BT, blocks.block))
    return sizes._replace(BT=blocks.tile, BS=max(sizes.BS, blocks.block))


_TENSORS = {  # tensors beside q, k and v, with their types; None is the type of q, k and v
    attention_forward: ("forward", {"p_y": None, "p_lse": "*fp32"}),
    attention_query_gradient: (
        "queries",
        {"p_dy": None, "p_lse": "*fp32", "p_delta": "*fp32", "p_dq": None},
    ),
    attention_key_gradient: (
        "keys",
        {"p_dy": None, "p_lse": "*fp32", "p_delta": "*fp32", "p_dk": None, "p_dv": None},
    ),
}


def _case(kernel: Any, K: int, dtype: torch.dtype, sizes: Tile, is_listed: bool = False) -> Case:
    """The compilation with a window and sinks or, if `is_listed`, with block lists and padding."""
    same = "*" + DTYPES[dtype]
    signature = dict.fromkeys(("p_q", "p_k", "p_v"), same) | {"p_valid": "*u8", "scale": "fp32"}
    signature |= {name: kind or same for name, kind in _TENSORS[kernel][1].items()}
    signature |= dict.fromkeys(("p_starts", "p_blocks", "p_bits"), "*i32")
    signature |= dict.fromkeys(("T", "S", "H", "R", "heads_per_mask", "window", "sinks"), "i32")
    constants = dict.fromkeys(("K", "V", "BK", "BV"), K) | {"BT": sizes.BT, "BS": sizes.BS, "BLOCK": 16}
    constants |= {"CAUSAL": True, "WINDOWED": not is_listed, "PADDED": is_listed, "LISTED": is_listed}
    # constants, so that the compiler sees their alignment, as it does in a run
    constants |= {name: 4096 for name in kernel.arg_names if name.startswith("stride_")}
    label = f"{DTYPES[dtype]} K{K} {tuple(sizes)}{' listed' if is_listed else ''}"
    spills = 512 if is_listed and K == 256 else 64  # a few values at the start of a program
    return Case(kernel, signature, constants, sizes.num_warps, sizes.num_stages, spills, label)


def _cases() -> tuple[Case, ...]:
    """Each size of the tables, and block lists for two widths; the fastest to compile first."""
    found: dict[tuple[Any, ...], Case] = {}
    for kernel, (kind, _) in _TENSORS.items():
        for K, served in product((64, 128, 256), (80, 90)):
            sizes = attention_tile(kind, K, torch.bfloat16, served)
            found[kernel, K, sizes] = _case(kernel, K, torch.bfloat16, sizes)
        sizes = attention_tile(kind, 128, torch.float32, 80)
        found[kernel, torch.float32] = _case(kernel, 128, torch.float32, sizes)
        for K in (64, 256):
            sizes = attention_tile(kind, K, torch.bfloat16, 80)
            sizes = sizes._replace(BS=TILE) if kind == "keys" else sizes._replace(BT=TILE)
            found[kernel, K, "listed"] = _case(kernel, K, torch.bfloat16, sizes, is_listed=True)
    pointers = {"p_y": "*bf16", "p_dy": "*bf16", "p_dlse": "*fp32", "p_delta": "*fp32", "N": "i32"}
    deltas = Case(attention_deltas, pointers, {"V": 128, "BV": 128, "BN": 32})
    return (*found.values(), deltas, *DECODE_CASES)


CASES = _cases()
