"""Triton kernels of the delta rule in chunks: the solve within a chunk, the state between chunks, and their gradients.

Within a chunk, with L_ij = beta_i (k_i . k_j) e^{total_i - total_j} for j < i and X = (I + L)^{-1},

    u = X (beta v)          w = X (beta e^total k)          n = u - w S          S <- e^end S + (e^{end - total} k)^T n

n are the values written by the tokens, without what earlier tokens wrote; the outputs are those of the gated recurrence
with n in place of v.
Letters as in `recurrence_forward`; x [B, T, G, BT] holds the rows of X, DECAY is 0 or 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from searchspace.kernels.products import dot, dot_of_sums, dot_unrounded


# The arguments of kernels stay in groups:
# fmt: off
@triton.jit
def unit_inverse(b_L, EXACT: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr):
    """(I + L)^{-1} of a strictly lower triangular tile, by substitution of rows within blocks of BC, then of blocks."""
    N: tl.constexpr = BT // BC
    o_i, o_c = tl.arange(0, BT), tl.arange(0, BC)
    same = o_i[:, None] // BC == o_i[None, :] // BC
    is_own = tl.arange(0, N)[:, None, None, None] == tl.arange(0, N)[None, None, :, None]
    blocks = tl.sum(tl.where(is_own, tl.reshape(b_L, [N, BC, N, BC]), 0.0), 2)  # [N, BC, BC]
    eye = (o_c[:, None] == o_c[None, :]).to(tl.float32)[None, :, :]
    inverses = tl.zeros([N, BC, BC], tl.float32) + eye
    for i in range(1, BC):
        is_row = (o_c == i)[None, :, None]
        row = tl.sum(tl.where(is_row, blocks, 0.0), 1)  # [N, BC]
        known = tl.sum(row[:, :, None] * inverses, 1)
        inverses = tl.where(is_row, eye - known[:, None, :], inverses)
    b_M = tl.reshape(tl.where(is_own, inverses[:, :, None, :], 0.0), [BT, BT])
    if N == 1:
        return b_M
    b_N = dot_of_sums(b_M, tl.where(same, 0.0, b_L), EXACT)
    b_X = b_M
    for _ in range(N - 1):
        b_X = b_M - dot_of_sums(b_N, b_X, EXACT)
    return b_X


@triton.jit
def solve(
    p_k, p_v, p_beta, p_total, p_x, p_w, p_u, T,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DECAY: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """Compute x [B, T, G, BT], w [B, T, G, K] and u [B, T, G, V]."""
    i_c, i_bg = tl.program_id(0), tl.program_id(1)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_i = tl.arange(0, BT)
    o_t = i_c * BT + o_i
    m_t = o_t < T
    row = (i_b * T + o_t) * G + i_g
    b_beta = tl.load(p_beta + row, mask=m_t, other=0.0).to(tl.float32)
    b_L = tl.zeros([BT, BT], tl.float32)
    for i_k in range(tl.cdiv(K, BK)):
        o_k = i_k * BK + tl.arange(0, BK)
        b_k = tl.load(p_k + row[:, None] * K + o_k[None, :], mask=m_t[:, None] & (o_k < K)[None, :], other=0.0)
        b_L += dot(b_k, tl.trans(b_k))
    is_before = o_i[:, None] > o_i[None, :]
    b_fade = tl.full([BT], 1.0, tl.float32)
    if DECAY == 1:
        b_total = tl.load(p_total + row, mask=m_t, other=0.0)
        b_L *= tl.exp(tl.where(is_before & m_t[:, None], b_total[:, None] - b_total[None, :], 0.0))
        b_fade = tl.exp(b_total)
    EXACT: tl.constexpr = p_k.dtype.element_ty == tl.float32
    b_X = unit_inverse(tl.where(is_before, b_L * b_beta[:, None], 0.0), EXACT, BT, BC)
    tl.store(p_x + row[:, None] * BT + o_i[None, :], b_X.to(p_x.dtype.element_ty), mask=m_t[:, None])
    b_X *= b_beta[None, :]
    for i_v in range(tl.cdiv(V, BV)):
        o_v = i_v * BV + tl.arange(0, BV)
        m_tv = m_t[:, None] & (o_v < V)[None, :]
        b_v = tl.load(p_v + row[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
        b_u = dot_unrounded(b_X, b_v)
        tl.store(p_u + row[:, None] * V + o_v[None, :], b_u.to(p_u.dtype.element_ty), mask=m_tv)
    b_X *= b_fade[None, :]
    for i_k in range(tl.cdiv(K, BK)):
        o_k = i_k * BK + tl.arange(0, BK)
        m_tk = m_t[:, None] & (o_k < K)[None, :]
        b_k = tl.load(p_k + row[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
        b_w = dot_unrounded(b_X, b_k)
        tl.store(p_w + row[:, None] * K + o_k[None, :], b_w.to(p_w.dtype.element_ty), mask=m_tk)


@triton.jit
def carry_writes(
    p_k, p_w, p_u, p_total, p_first, p_states, p_n, p_last, T, NC,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DECAY: tl.constexpr, HAS_FIRST: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """Compute n = u - w S and the state by chunks; BK covers K. Slot c of `states` is the state before chunk c."""
    i_v, i_bg = tl.program_id(0), tl.program_id(1)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_k, o_v = tl.arange(0, BK), i_v * BV + tl.arange(0, BV)
    m_k, m_v = o_k < K, o_v < V
    m_S = m_k[:, None] & m_v[None, :]
    o_S = o_k[:, None] * V + o_v[None, :]
    b_S = tl.zeros([BK, BV], tl.float32)
    if HAS_FIRST:
        b_S += tl.load(p_first + i_bg.to(tl.int64) * K * V + o_S, mask=m_S, other=0.0).to(tl.float32)
    for i_c in range(NC):
        b_kept = b_S.to(p_states.dtype.element_ty)
        tl.store(p_states + ((i_b * (NC + 1) + i_c) * G + i_g) * K * V + o_S, b_kept, mask=m_S)
        o_t = i_c * BT + tl.arange(0, BT)
        m_t = o_t < T
        row = (i_b * T + o_t) * G + i_g
        m_tk, m_tv = m_t[:, None] & m_k[None, :], m_t[:, None] & m_v[None, :]
        b_w = tl.load(p_w + row[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
        b_u = tl.load(p_u + row[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
        b_n = b_u - dot(b_w, b_kept)
        tl.store(p_n + row[:, None] * V + o_v[None, :], b_n.to(p_n.dtype.element_ty), mask=m_tv)
        b_k = tl.load(p_k + row[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
        if DECAY == 1:
            end = (i_b * T + tl.minimum(i_c * BT + BT, T) - 1) * G + i_g
            b_end = tl.load(p_total + end)
            b_n *= tl.exp(b_end - tl.load(p_total + row, mask=m_t, other=0.0))[:, None]
            b_S *= tl.exp(b_end)
        b_S += dot(tl.trans(b_k), b_n.to(b_k.dtype))
    tl.store(p_states + ((i_b * (NC + 1) + NC) * G + i_g) * K * V + o_S, b_S.to(p_states.dtype.element_ty), mask=m_S)
    tl.store(p_last + i_bg.to(tl.int64) * K * V + o_S, b_S, mask=m_S)


@triton.jit
def carry_write_gradients(
    p_q, p_k, p_w, p_do, p_total, p_dlast, p_dn, p_later, p_dfirst, T, NC,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, R: tl.constexpr, DECAY: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """Backward over chunks: add (e^{end - total} k) dS to dn, which holds the gradient of the chunk's own outputs, then

        dS <- e^end dS + sum_r (e^total q_r)^T do_r - w^T dn          `later` stores dS after each chunk
    """
    i_v, i_bg = tl.program_id(0), tl.program_id(1)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_k, o_v = tl.arange(0, BK), i_v * BV + tl.arange(0, BV)
    m_k, m_v = o_k < K, o_v < V
    m_S = m_k[:, None] & m_v[None, :]
    o_S = o_k[:, None] * V + o_v[None, :]
    b_D = tl.load(p_dlast + i_bg.to(tl.int64) * K * V + o_S, mask=m_S, other=0.0).to(tl.float32)
    for c in range(NC):
        i_c = NC - 1 - c
        b_kept = b_D.to(p_later.dtype.element_ty)
        tl.store(p_later + ((i_b * (NC + 1) + i_c) * G + i_g) * K * V + o_S, b_kept, mask=m_S)
        o_t = i_c * BT + tl.arange(0, BT)
        m_t = o_t < T
        row = (i_b * T + o_t) * G + i_g
        m_tk, m_tv = m_t[:, None] & m_k[None, :], m_t[:, None] & m_v[None, :]
        b_dn = dot(tl.load(p_k + row[:, None] * K + o_k[None, :], mask=m_tk, other=0.0), b_kept)
        if DECAY == 1:
            b_total = tl.load(p_total + row, mask=m_t, other=0.0)
            b_end = tl.load(p_total + (i_b * T + tl.minimum(i_c * BT + BT, T) - 1) * G + i_g)
            b_dn *= tl.exp(b_end - b_total)[:, None]
            b_D *= tl.exp(b_end)
        p_out = p_dn + row[:, None] * V + o_v[None, :]
        b_dn += tl.load(p_out, mask=m_tv, other=0.0)
        tl.store(p_out, b_dn, mask=m_tv)
        b_w = tl.load(p_w + row[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
        b_D -= dot(tl.trans(b_w), b_dn.to(b_w.dtype))
        for r in tl.static_range(R):
            head = row * R + r
            b_q = tl.load(p_q + head[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
            b_do = tl.load(p_do + head[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
            if DECAY == 1:
                b_do = (b_do * tl.exp(b_total)[:, None]).to(b_do.dtype)
            b_D += dot(tl.trans(b_q), b_do)
    tl.store(p_dfirst + i_bg.to(tl.int64) * K * V + o_S, b_D, mask=m_S)


@triton.jit
def solve_gradients(
    p_k, p_v, p_beta, p_total, p_x, p_states, p_dn, p_dk, p_dv, p_dbeta, p_dtotal, T, NC,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DECAY: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """From du = dn and dw = -dn S^T:  dX = dw (beta e^total k)^T + du (beta v)^T,  dL = -X^T dX X^T where j < i.

    Adds to dk and dtotal; writes dv [B, T, G, V] and dbeta [B, T, G].
    """
    i_c, i_bg = tl.program_id(0), tl.program_id(1)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_i = tl.arange(0, BT)
    o_t = i_c * BT + o_i
    m_t = o_t < T
    row = (i_b * T + o_t) * G + i_g
    b_beta = tl.load(p_beta + row, mask=m_t, other=0.0).to(tl.float32)
    b_X = tl.load(p_x + row[:, None] * BT + o_i[None, :], mask=m_t[:, None], other=0.0)
    is_before = (o_i[:, None] > o_i[None, :]) & m_t[:, None]
    b_since = tl.full([BT], 1.0, tl.float32)
    if DECAY == 1:
        b_total = tl.load(p_total + row, mask=m_t, other=0.0)
        b_since = tl.exp(b_total)
    b_dX = tl.zeros([BT, BT], tl.float32)
    b_dbeta = tl.zeros([BT], tl.float32)
    b_dtotal = tl.zeros([BT], tl.float32)
    for i_v in range(tl.cdiv(V, BV)):
        o_v = i_v * BV + tl.arange(0, BV)
        o_tv, m_tv = row[:, None] * V + o_v[None, :], m_t[:, None] & (o_v < V)[None, :]
        b_v = tl.load(p_v + o_tv, mask=m_tv, other=0.0)
        b_du = tl.load(p_dn + o_tv, mask=m_tv, other=0.0).to(b_v.dtype)
        b_dX += dot(b_du, tl.trans((b_v * b_beta[:, None]).to(b_v.dtype)))
        b_dbv = dot(tl.trans(b_X), b_du)
        b_dbeta += tl.sum(b_dbv * b_v, 1)
        tl.store(p_dv + o_tv, (b_dbv * b_beta[:, None]).to(p_dv.dtype.element_ty), mask=m_tv)
    b_kk = tl.zeros([BT, BT], tl.float32)
    slot = ((i_b * (NC + 1) + i_c) * G + i_g) * K * V
    for i_k in range(tl.cdiv(K, BK)):
        o_k = i_k * BK + tl.arange(0, BK)
        m_k = o_k < K
        o_tk, m_tk = row[:, None] * K + o_k[None, :], m_t[:, None] & m_k[None, :]
        b_k = tl.load(p_k + o_tk, mask=m_tk, other=0.0)
        b_dw = tl.zeros([BT, BK], tl.float32)
        for i_v in range(tl.cdiv(V, BV)):
            o_v = i_v * BV + tl.arange(0, BV)
            m_v = o_v < V
            b_dn = tl.load(p_dn + row[:, None] * V + o_v[None, :], mask=m_t[:, None] & m_v[None, :], other=0.0)
            m_S = m_v[:, None] & m_k[None, :]
            b_S = tl.load(p_states + slot + o_v[:, None] + o_k[None, :] * V, mask=m_S, other=0.0)
            b_dw -= dot(b_dn.to(b_S.dtype), b_S)
        b_dw = b_dw.to(b_k.dtype)
        b_scaled = (b_k * (b_beta * b_since)[:, None]).to(b_k.dtype)
        b_dX += dot(b_dw, tl.trans(b_scaled))
        b_kk += dot(b_k, tl.trans(b_k))
        b_dscaled = dot(tl.trans(b_X), b_dw) * b_since[:, None]
        b_dot = tl.sum(b_dscaled * b_k, 1)
        b_dbeta += b_dot
        b_dtotal += b_dot * b_beta
        b_dk = tl.load(p_dk + o_tk, mask=m_tk, other=0.0) + b_dscaled * b_beta[:, None]
        tl.store(p_dk + o_tk, b_dk, mask=m_tk)
    b_left = dot(b_dX.to(b_X.dtype), tl.trans(b_X)).to(b_X.dtype)
    b_dL = -dot(tl.trans(b_X), b_left)
    b_dL = tl.where(is_before, b_dL, 0.0)
    if DECAY == 1:
        b_dL *= tl.exp(tl.where(is_before, b_total[:, None] - b_total[None, :], 0.0))
    b_pairs = b_dL * b_kk
    b_dbeta += tl.sum(b_pairs, 1)
    b_dkk = b_dL * b_beta[:, None]
    if DECAY == 1:
        b_pairs *= b_beta[:, None]
        b_dtotal += tl.load(p_dtotal + row, mask=m_t, other=0.0) + tl.sum(b_pairs, 1) - tl.sum(b_pairs, 0)
        tl.store(p_dtotal + row, b_dtotal, mask=m_t)
    tl.store(p_dbeta + row, b_dbeta, mask=m_t)
    b_dkk = (b_dkk + tl.trans(b_dkk)).to(p_k.dtype.element_ty)
    tl.debug_barrier()  # other threads may read the tiles of dk stored above
    for i_k in range(tl.cdiv(K, BK)):
        o_k = i_k * BK + tl.arange(0, BK)
        o_tk, m_tk = row[:, None] * K + o_k[None, :], m_t[:, None] & (o_k < K)[None, :]
        b_k = tl.load(p_k + o_tk, mask=m_tk, other=0.0)
        b_dk = tl.load(p_dk + o_tk, mask=m_tk, other=0.0) + dot(b_dkk, b_k)
        tl.store(p_dk + o_tk, b_dk, mask=m_tk)
