"""The delta rule in Triton: `searchspace.primitives.recurrence.recurrence_chunked` with a write strength.

A chunk's written values are solved for all its tokens at once (Yang et al., arXiv:2406.06484; with a decay,
arXiv:2412.06464). They are then the values of a gated recurrence, whose kernels compute the outputs and most gradients.
The decay is absent or one number per group; keys must have norm 1. A single token without gradients is computed in
registers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.delta_kernels import carry_write_gradients, carry_writes, solve, solve_gradients
from searchspace.kernels.products import DTYPES, Run, check_operands, in_batches, tile
from searchspace.kernels.recurrence import (
    MAX_KEY_DIM,
    SUB_CHUNK,
    case,
    chunk_tile,
    decay_kind,
    largest_chunk,
    needs_gradient,
    outputs,
    prefix_sums,
    query_key_gradient,
    step,
    tiles_of,
    value_gradient,
)

SPILLS = 512  # bytes per thread, once per chunk, which is negligible beside the products


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None, chunk: int, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """(o [B, T, G, R, V] in the dtype of q, last state [B, G, K, V] in float32). Chunks have at most 64 tokens.

    q [B, T, G, R, K], k [B, T, G, K], v [B, T, G, V], log_a [B, T, G, 1], S [B, G, K, V], beta [B, T, G].
    Raises ValueError for other dtypes, K above MAX_KEY_DIM or a decay per key channel.
    """
    check_operands("delta_rule", q, k, v)
    if q.shape[-1] > MAX_KEY_DIM:
        raise ValueError(f"delta_rule kernel: takes a key dim of at most {MAX_KEY_DIM}, got {q.shape[-1]}")
    run: Run
    if q.shape[1] == 1 and not needs_gradient(q, k, v, log_a, S, beta):
        run = step
    elif decay_kind(log_a) == 2:
        raise ValueError("delta_rule kernel: takes no decay or one number per group, got one per key channel")
    else:
        run = partial(_in_chunks, BT=chunk_tile(q, chunk))
    o, last = in_batches(run, q.shape[2] * q.shape[3], q, k, v, log_a, S, beta)
    return o, last


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None, beta: Tensor, BT: int
) -> tuple[Tensor, Tensor]:
    o, last = _DeltaRule.apply(q, k, v, log_a, S, beta, BT)
    return o, last


def _value_tile(dtype: torch.dtype, K: int, V: int) -> int:
    """BV: a program holds all key channels and BV value channels of the state."""
    return tile(V, 16 if dtype == torch.float32 or K > 128 else 32)


def _solve_gradient_tiles(dtype: torch.dtype, K: int, V: int) -> tuple[int, int]:
    """(BK, BV); with BK = 64 compute capability 8.0 would spill twice as much."""
    BK, BV = tiles_of(dtype, K, V)
    return min(BK, 32), BV


def _stages(K: int) -> int:
    """Pipeline stages: one if two copies of a program's tiles would not fit the shared memory."""
    return 1 if K > 128 else 2


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_a: Tensor | None,
        S: Tensor | None,
        beta: Tensor,
        BT: int,
    ) -> tuple[Tensor, Tensor]:
        decay = decay_kind(log_a)
        q, k, v, beta = (t.contiguous() for t in (q, k, v, beta))
        first = None if S is None else S.contiguous()
        B, T, G, _, K = q.shape
        V, NC = v.shape[-1], triton.cdiv(T, BT)
        total = None if log_a is None else prefix_sums(log_a, BT)
        x, w, u, n = k.new_empty(B, T, G, BT), torch.empty_like(k), torch.empty_like(v), torch.empty_like(v)
        BK, BV = tiles_of(q.dtype, K, V)
        solve[NC, B * G](
            k, v, beta, total, x, w, u, T, G, K, V, DECAY=decay, BT=BT, BC=SUB_CHUNK, BK=BK, BV=BV,
            num_warps=8, num_stages=2,
        )  # fmt: skip
        states = k.new_empty(B, NC + 1, G, K, V)
        last = k.new_empty(B, G, K, V, dtype=torch.float32)
        BV = _value_tile(q.dtype, K, V)
        carry_writes[triton.cdiv(V, BV), B * G](
            k, w, u, total, first, states, n, last, T, NC, G, K, V, DECAY=decay, HAS_FIRST=first is not None,
            BT=BT, BK=tile(K, MAX_KEY_DIM), BV=BV, num_warps=4, num_stages=_stages(K),
        )  # fmt: skip
        o = outputs(q, k, n, total, states, None, BT, decay)
        ctx.save_for_backward(q, k, v, beta, total, x, w, n, states)
        ctx.BT, ctx.decay = BT, decay
        ctx.log_a_dtype = None if log_a is None else log_a.dtype
        ctx.S_dtype = None if S is None else S.dtype
        return o, last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, total, x, w, n, states = ctx.saved_tensors
        do, dlast = (g.contiguous() for g in gradients)
        BT, decay = ctx.BT, ctx.decay
        B, T, G, R, K = q.shape
        V, NC = v.shape[-1], triton.cdiv(T, BT)
        dn = value_gradient(q, k, n, do, total, None, None, BT, decay, torch.float32)
        later, dS = torch.empty_like(states), torch.empty_like(dlast)
        BV = _value_tile(q.dtype, K, V)
        carry_write_gradients[triton.cdiv(V, BV), B * G](
            q, k, w, do, total, dlast, dn, later, dS, T, NC, G, K, V, R=R, DECAY=decay,
            BT=BT, BK=tile(K, MAX_KEY_DIM), BV=BV, num_warps=4, num_stages=_stages(K),
        )  # fmt: skip
        dq, dk, dtotal = query_key_gradient(q, k, n, do, total, states, later, BT, decay, torch.float32)
        dv, dbeta = torch.empty_like(v), beta.new_empty(beta.shape, dtype=torch.float32)
        BK, BV = _solve_gradient_tiles(q.dtype, K, V)
        solve_gradients[NC, B * G](
            k, v, beta, total, x, states, dn, dk, dv, dbeta, dtotal, T, NC, G, K, V, DECAY=decay,
            BT=BT, BK=BK, BV=BV, num_warps=8, num_stages=2,
        )  # fmt: skip
        dlog_a = None if dtotal is None else prefix_sums(dtotal, BT, reverse=True).to(ctx.log_a_dtype)
        dfirst = None if ctx.S_dtype is None else dS.to(ctx.S_dtype)
        return dq, dk.to(k.dtype), dv, dlog_a, dfirst, dbeta.to(beta.dtype), None


def _cases(dtype: torch.dtype, dim: int, decay: int) -> list[Case]:
    BK, BV = tiles_of(dtype, dim, dim)
    name, label = DTYPES[dtype], f"{DTYPES[dtype]} {dim} decay {decay}"
    size = {"BT": largest_chunk(dtype), "BK": BK, "BV": BV, "DECAY": decay}
    state = size | {"BK": tile(dim, MAX_KEY_DIM), "BV": _value_tile(dtype, dim, dim)}
    return [
        case(
            solve, name, "p_k p_v p_beta p_x p_w p_u", "p_total", size | {"BC": SUB_CHUNK}, dim, label, 8,
            max_spill_bytes=SPILLS,
        ),
        case(
            carry_writes, name, "p_k p_w p_u p_states p_n", "p_total p_first p_last",
            state | {"HAS_FIRST": True}, dim, label, num_stages=_stages(dim),
        ),
        case(
            carry_write_gradients, name, "p_q p_k p_w p_do p_later", "p_total p_dlast p_dn p_dfirst",
            state | {"R": 1}, dim, label, num_stages=_stages(dim), max_spill_bytes=SPILLS,
        ),
        case(
            solve_gradients, name, "p_k p_v p_beta p_x p_states p_dv", "p_total p_dn p_dk p_dbeta p_dtotal",
            size | {"BK": _solve_gradient_tiles(dtype, dim, dim)[0]}, dim, label, 8, max_spill_bytes=SPILLS,
        ),
    ]  # fmt: skip


CASES = (
    *_cases(torch.bfloat16, 64, 0),
    *_cases(torch.bfloat16, 128, 1),
    *_cases(torch.float16, 256, 1),
    *_cases(torch.float32, 64, 1),
)
