"""The gated linear recurrence of `searchspace.primitives.recurrence.recurrence_chunked` in Triton.

Chunks run in parallel except for one pass that carries the state in float32; the states between chunks are stored in
the operands' dtype, for use in products. A single token without gradients is computed in registers.
Chunked forms: Yang et al., arXiv:2312.06635; Qin et al., arXiv:2401.04658 (a fixed decay per head).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.products import DTYPES, Run, check_operands, in_batches, tile
from searchspace.kernels.recurrence_backward import (
    query_key_gradients,
    value_gradients,
    vector_query_key_gradients,
    vector_weights,
)
from searchspace.kernels.recurrence_forward import (
    carry_states,
    chunk_output,
    chunk_sums,
    recurrent_step,
    vector_pairs,
)

CHUNK = 64
SUB_CHUNK = 16
MAX_KEY_DIM = 256


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """(o [B, T, G, R, V] in the dtype of q, last state [B, G, K, V] in float32). Chunks have at most CHUNK tokens.

    q [B, T, G, R, K], k [B, T, G, K], v [B, T, G, V], log_a [B, T, G, 1 or K], S [B, G, K, V].
    Raises ValueError for other dtypes or K above MAX_KEY_DIM.
    """
    check_operands("recurrence", q, k, v)
    if q.shape[-1] > MAX_KEY_DIM:
        raise ValueError(f"recurrence kernel: takes a key dim of at most {MAX_KEY_DIM}, got {q.shape[-1]}")
    run: Run
    if q.shape[1] == 1 and not needs_gradient(q, k, v, log_a, S):
        run = step
    else:
        run = partial(_in_chunks, BT=chunk_tile(q, chunk))
    o, last = in_batches(run, q.shape[2] * q.shape[3], q, k, v, log_a, S)
    return o, last


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None, BT: int
) -> tuple[Tensor, Tensor]:
    o, last = _Recurrence.apply(q, k, v, log_a, S, BT)
    return o, last


def chunk_tile(q: Tensor, chunk: int) -> int:
    """Tokens in a chunk: `chunk` as a power of two of at least 16, limited by the kernels and by T of q [B, T, ...]."""
    largest = largest_chunk(q.dtype)
    return min(tile(chunk, largest), tile(q.shape[1], largest))


def largest_chunk(dtype: torch.dtype) -> int:
    """The most tokens in a chunk; fewer in float32, whose exact products run without tensor cores."""
    return 32 if dtype == torch.float32 else CHUNK


def needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def step(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(o, last state), token by token, forward only; `beta` [B, T, G] makes it the delta rule.

    q [B, T, G, R, K], k [B, T, G, K], v [B, T, G, V] -> o [B, T, G, R, V], S [B, G, K, V].
    """
    B, T, G, R, K = q.shape
    V = v.shape[-1]
    o, last = q.new_empty(B, T, G, R, V), q.new_empty(B, G, K, V, dtype=torch.float32)
    given = [None if t is None else t.contiguous() for t in (q, k, v, log_a, beta, S)]
    BK, BV = tile(K, MAX_KEY_DIM), 32
    recurrent_step[triton.cdiv(V, BV), B * G](
        *given, o, last, T, G, K, V, R=R, DECAY=decay_kind(log_a), DELTA=beta is not None,
        HAS_FIRST=S is not None, BK=BK, BV=BV, num_warps=4,
    )  # fmt: skip
    return o, last


def decay_kind(log_a: Tensor | None) -> int:
    """The kernels' DECAY: 0 none, 1 one number per group, 2 one per key channel. log_a [B, T, G, 1 or K]."""
    return 0 if log_a is None else 1 if log_a.shape[-1] == 1 else 2


def prefix_sums(x: Tensor, BT: int, reverse: bool = False) -> Tensor:
    """Prefix sums (or suffix sums if `reverse`) of x [B, T, G, W] within chunks, in float32; x may have any strides."""
    B, T, G, W = x.shape
    total = x.new_empty(x.shape, dtype=torch.float32)
    BW = min(32, triton.next_power_of_2(G * W))
    grid = (triton.cdiv(G * W, BW), triton.cdiv(T, BT), B)
    chunk_sums[grid](x, total, T, G, W, *x.stride(), REVERSE=reverse, BT=BT, BW=BW, num_warps=4)
    return total


GRADIENT_BV = 32  # value channels per step of the query and key gradients; with 64, capability 8.0 spills


def tiles_of(dtype: torch.dtype, K: int, V: int) -> tuple[int, int]:
    """(BK, BV), at most 32 in float32, whose tiles of 64 would not fit the registers."""
    largest = 32 if dtype == torch.float32 else 64
    return tile(K, largest), tile(V, largest)


def carried(
    x: Tensor,
    y: Tensor,
    total: Tensor | None,
    first: Tensor | None,
    R: int,
    BT: int,
    decay: int,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """(state that enters each chunk [B, NC + 1, G, K, V], state after all chunks [B, G, K, V]).

    Forward x is k and y is v; in reverse x is q and y is do, with an axis R for the query heads."""
    B, T, K, V = x.shape[0], x.shape[1], x.shape[-1], y.shape[-1]
    G = x.shape[2]
    NC = triton.cdiv(T, BT)
    states = x.new_empty(B, NC + 1, G, K, V)
    last = x.new_empty(B, G, K, V, dtype=torch.float32)
    BK, BV = tiles_of(x.dtype, K, V)
    carry_states[triton.cdiv(K, BK), triton.cdiv(V, BV), B * G](
        x, y, total, first, states, last, T, NC, G, K, V, R=R, DECAY=decay, REVERSE=reverse,
        HAS_FIRST=first is not None, BT=BT, BK=BK, BV=BV, num_warps=4, num_stages=2,
    )  # fmt: skip
    return states, last


def outputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    total: Tensor | None,
    states: Tensor,
    pairs: Tensor | None,
    BT: int,
    decay: int,
) -> Tensor:
    """o [B, T, G, R, V] of q [B, T, G, R, K] from the `states` [B, chunks + 1, G, K, V] before each chunk."""
    B, T, G, R, K = q.shape
    V = v.shape[-1]
    o = q.new_empty(B, T, G, R, V)
    BK, BV = tiles_of(q.dtype, K, V)
    NC = triton.cdiv(T, BT)
    chunk_output[triton.cdiv(V, BV), NC, B * G * R](
        q, k, v, total, states, pairs, o, T, NC, G, R, K, V, DECAY=decay, BT=BT, BK=BK, BV=BV,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return o


def pairs_of(q: Tensor, k: Tensor, total: Tensor, BT: int) -> Tensor:
    """Pairs [B, T, H, BT] of queries and keys within chunks for a decay per key channel, see `vector_pairs`."""
    B, T, G, R, K = q.shape
    pairs = q.new_empty(B, T, G * R, BT)
    grid = (triton.cdiv(T, BT) * (BT // SUB_CHUNK), B * G * R)
    vector_pairs[grid](
        q, k, total, pairs, T, G, R, K, BT=BT, BC=SUB_CHUNK, BK=tile(K, MAX_KEY_DIM), num_warps=4, num_stages=2
    )  # fmt: skip
    return pairs


def value_gradient(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, total: Tensor | None, later: Tensor | None, pairs: Tensor | None,
    BT: int, decay: int, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """The gradient dv [B, T, G, V] from do [B, T, G, R, V]."""
    B, T, G, R, K = q.shape
    V = v.shape[-1]
    dv = torch.empty_like(v, dtype=dtype)
    BK, BV = tiles_of(q.dtype, K, V)
    NC = triton.cdiv(T, BT)
    value_gradients[triton.cdiv(V, BV), NC, B * G](
        q, k, do, total, later, pairs, dv, T, NC, G, K, V, R=R, DECAY=decay, HAS_LATER=later is not None,
        BT=BT, BK=BK, BV=BV, num_warps=4, num_stages=2,
    )  # fmt: skip
    return dv


def query_key_gradient(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, total: Tensor | None, states: Tensor, later: Tensor,
    BT: int, decay: int, key_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(dq [B, T, G, R, K], dk [B, T, G, K], gradient of the prefix sums [B, T, G, 1 or K] or None)."""
    B, T, G, R, K = q.shape
    V = v.shape[-1]
    dq, dk = torch.empty_like(q), torch.empty_like(k, dtype=key_dtype)
    BK, BV = tiles_of(q.dtype, K, V)
    NC, NK = triton.cdiv(T, BT), triton.cdiv(K, BK)
    if decay < 2:
        dtotal = q.new_empty(NK, B, T, G, 1, dtype=torch.float32) if decay else None
        query_key_gradients[NK, NC, B * G](
            q, k, v, do, total, states, later, dq, dk, dtotal, B, T, NC, G, K, V, R=R, DECAY=decay,
            BT=BT, BK=BK, BV=GRADIENT_BV, num_warps=8, num_stages=2,
        )  # fmt: skip
        return dq, dk, None if dtotal is None else dtotal.sum(0)
    weights = q.new_empty(B, T, G * R, BT, dtype=torch.float32)
    vector_weights[NC, B * G * R](v, do, weights, T, G, R, V, BT=BT, BV=BV, num_warps=4, num_stages=2)
    dtotal = q.new_empty(B, T, G, K, dtype=torch.float32)
    vector_query_key_gradients[NK, NC * (BT // SUB_CHUNK), B * G](
        q, k, v, do, weights, total, states, later, dq, dk, dtotal, T, NC, G, K, V, R=R, BT=BT, BC=SUB_CHUNK,
        BK=BK, BV=BV, num_warps=4, num_stages=2,
    )  # fmt: skip
    return dq, dk, dtotal


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None, BT: int
    ) -> tuple[Tensor, Tensor]:
        decay = decay_kind(log_a)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        first = None if S is None else S.contiguous()
        total = None if log_a is None else prefix_sums(log_a, BT)
        states, last = carried(k, v, total, first, 1, BT, decay, reverse=False)
        pairs = pairs_of(q, k, total, BT) if decay == 2 and total is not None else None
        o = outputs(q, k, v, total, states, pairs, BT, decay)
        ctx.save_for_backward(q, k, v, total, states, pairs)
        ctx.BT, ctx.decay = BT, decay
        ctx.log_a_dtype = None if log_a is None else log_a.dtype
        ctx.S_dtype = None if S is None else S.dtype
        return o, last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, total, states, pairs = ctx.saved_tensors
        do, dlast = (g.contiguous() for g in gradients)
        BT, decay = ctx.BT, ctx.decay
        later, dS = carried(q, do, total, dlast, q.shape[3], BT, decay, reverse=True)
        dv = value_gradient(q, k, v, do, total, later, pairs, BT, decay)
        dq, dk, dtotal = query_key_gradient(q, k, v, do, total, states, later, BT, decay)
        dlog_a = None if dtotal is None else prefix_sums(dtotal, BT, reverse=True).to(ctx.log_a_dtype)
        return dq, dk, dv, dlog_a, None if ctx.S_dtype is None else dS.to(ctx.S_dtype), None


def case(
    kernel: Any, dtype: str, pointers: str, sums: str, constants: dict[str, Any], dim: int, label: str,
    num_warps: int = 4, num_stages: int = 2, max_spill_bytes: int = 0,
) -> Case:  # fmt: skip
    """`pointers`: names of tensors in `dtype`; `sums`: of float32 tensors; other arguments are sizes or strides."""
    sizes = {"G": 4, "R": 1, "K": dim, "V": dim, "W": 1}
    constants = constants | {n: v for n, v in sizes.items() if n in kernel.arg_names}
    signature = {n: "i32" for n in kernel.arg_names if n not in constants}
    signature |= dict.fromkeys(pointers.split(), f"*{dtype}") | dict.fromkeys(sums.split(), "*fp32")
    return Case(kernel, signature, constants, num_warps, num_stages, max_spill_bytes, label)


def _cases(dtype: torch.dtype, dim: int, decay: int) -> list[Case]:
    """Every kernel of a forward and a backward pass with K = V = dim and one query head in a group."""
    BK, BV = tiles_of(dtype, dim, dim)
    name, label = DTYPES[dtype], f"{DTYPES[dtype]} {dim} decay {decay}"
    BT = largest_chunk(dtype)
    size = {"BT": BT, "BK": BK, "BV": BV}
    kind = {"DECAY": decay, "R": 1}
    carry = {**size, **kind, "HAS_FIRST": True}
    step_size = {"BK": tile(dim, MAX_KEY_DIM), "BV": 32}
    made = [
        case(carry_states, name, "p_x p_y p_states", "p_total p_first p_last", carry | {"REVERSE": False}, dim, label),
        case(carry_states, name, "p_x p_y p_states", "p_total p_first p_last", carry | {"REVERSE": True}, dim, label),
        case(chunk_output, name, "p_q p_k p_v p_states p_pairs p_o", "p_total", {**size, "DECAY": decay}, dim, label),
        case(
            value_gradients, name, "p_q p_k p_do p_later p_pairs p_dv", "p_total",
            {**size, **kind, "HAS_LATER": True}, dim, label,
        ),
        case(
            recurrent_step, name, "p_q p_k p_v p_log_a p_beta p_o", "p_first p_last",
            {**kind, **step_size, "DELTA": False, "HAS_FIRST": True}, dim, label,
        ),
    ]  # fmt: skip
    operands = "p_q p_k p_v p_do p_states p_later p_dq p_dk"
    if decay < 2:
        narrow = {**size, **kind, "BV": GRADIENT_BV}
        made.append(case(query_key_gradients, name, operands, "p_total p_dtotal", narrow, dim, label, 8))
        return made
    sub, wide = {"BT": BT, "BC": SUB_CHUNK}, {"BK": tile(dim, MAX_KEY_DIM)}
    return [
        *made,
        case(vector_pairs, name, "p_q p_k p_pairs", "p_total", sub | wide, dim, label),
        case(vector_weights, name, "p_v p_do", "p_w", {"BT": BT, "BV": BV}, dim, label),
        case(
            vector_query_key_gradients, name, operands, "p_w p_total p_dtotal",
            {**sub, "R": 1, "BK": BK, "BV": BV}, dim, label,
        ),
    ]  # fmt: skip


CASES = (
    case(chunk_sums, "bf16", "p_x", "p_y", {"REVERSE": False, "BT": CHUNK, "BW": 32}, 64, "bf16"),
    *_cases(torch.bfloat16, 64, 1),
    *_cases(torch.bfloat16, 128, 2),
    *_cases(torch.bfloat16, 128, 0),
    *_cases(torch.float16, 256, 2),
    *_cases(torch.float32, 64, 2),
)
