"""Triton kernels of the gated linear recurrence: prefix sums, states between chunks, pairs and outputs within them.

Letters as in `searchspace.primitives.recurrence`; `total` is the prefix sum of log a within a chunk, NC the number of
chunks, `states` [B, NC + 1, G, K, V] the state before each chunk and after the last. DECAY: 0 none, 1 one number per
group (total [B, T, G]), 2 one per key channel (total [B, T, G, K]). All tensors are contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from searchspace.kernels.products import dot


# Keep the kernels' arguments grouped:
# fmt: off
@triton.jit
def chunk_sums(
    p_x, p_y, T, G: tl.constexpr, W: tl.constexpr, stride_b, stride_t, stride_g, stride_w,
    REVERSE: tl.constexpr, BT: tl.constexpr, BW: tl.constexpr,
):
    """y_t = sum of x up to t (REVERSE: from t on) within a chunk; x [B, T, G, W] of any strides, y contiguous."""
    i_w, i_c, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_t, o_w = i_c * BT + tl.arange(0, BT), i_w * BW + tl.arange(0, BW)
    mask = (o_t < T)[:, None] & (o_w < G * W)[None, :]
    o_x = o_t.to(tl.int64)[:, None] * stride_t + (o_w // W * stride_g + o_w % W * stride_w)[None, :]
    b_x = tl.load(p_x + i_b * stride_b + o_x, mask=mask, other=0.0).to(tl.float32)
    o_y = (i_b * T + o_t)[:, None] * (G * W) + o_w[None, :]
    tl.store(p_y + o_y, tl.cumsum(b_x, 0, reverse=REVERSE), mask=mask)


@triton.jit
def carry_states(
    p_x, p_y, p_total, p_first, p_states, p_last, T, NC,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    R: tl.constexpr, DECAY: tl.constexpr, REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """Forward, R = 1: S <- e^end S + (e^{end - total} k)^T v.  REVERSE: dS <- e^end dS + sum_r (e^total q_r)^T do_r.

    Slot c of `states` is the state that enters chunk c in this direction; slot NC (forward only) the final state.
    """
    i_k, i_v, i_bg = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_k, o_v = i_k * BK + tl.arange(0, BK), i_v * BV + tl.arange(0, BV)
    m_k, m_v = o_k < K, o_v < V
    m_S = m_k[:, None] & m_v[None, :]
    o_S = o_k[:, None] * V + o_v[None, :]
    b_S = tl.zeros([BK, BV], tl.float32)
    if HAS_FIRST:
        b_S += tl.load(p_first + i_bg.to(tl.int64) * K * V + o_S, mask=m_S, other=0.0).to(tl.float32)
    for n in range(NC):
        i_c = NC - 1 - n if REVERSE else n
        p_slot = p_states + ((i_b * (NC + 1) + i_c) * G + i_g) * K * V
        tl.store(p_slot + o_S, b_S.to(p_states.dtype.element_ty), mask=m_S)
        o_t = i_c * BT + tl.arange(0, BT)
        m_t = o_t < T
        row = i_b * T + o_t
        end = i_b * T + tl.minimum(i_c * BT + BT, T) - 1
        if DECAY == 1:
            b_total = tl.load(p_total + row * G + i_g, mask=m_t, other=0.0)
            b_end = tl.load(p_total + end * G + i_g)
            b_fade = tl.exp(b_total if REVERSE else b_end - b_total)
            b_S *= tl.exp(b_end)
        if DECAY == 2:
            m_tk = m_t[:, None] & m_k[None, :]
            b_total = tl.load(p_total + (row * G + i_g)[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
            b_end = tl.load(p_total + (end * G + i_g) * K + o_k, mask=m_k, other=0.0)
            b_fade = tl.exp(b_total if REVERSE else b_end[None, :] - b_total)
            b_S *= tl.exp(b_end)[:, None]
        for r in tl.static_range(R):
            head = row * (G * R) + i_g * R + r
            b_x = tl.load(p_x + head[:, None] * K + o_k[None, :], mask=m_t[:, None] & m_k[None, :], other=0.0)
            b_y = tl.load(p_y + head[:, None] * V + o_v[None, :], mask=m_t[:, None] & m_v[None, :], other=0.0)
            if DECAY == 1:
                b_y = (b_y * b_fade[:, None]).to(b_y.dtype)
            if DECAY == 2:
                b_x = (b_x * b_fade).to(b_x.dtype)
            b_S += dot(tl.trans(b_x), b_y)
    if not REVERSE:
        p_slot = p_states + ((i_b * (NC + 1) + NC) * G + i_g) * K * V
        tl.store(p_slot + o_S, b_S.to(p_states.dtype.element_ty), mask=m_S)
    tl.store(p_last + i_bg.to(tl.int64) * K * V + o_S, b_S, mask=m_S)


@triton.jit
def vector_pairs(
    p_q, p_k, p_total, p_pairs, T,
    G: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):
    """pairs [B, T, H, BT]: sum_c q_ic k_jc e^{total_ic - total_jc}, j = 0 .. i within the chunk; later j are not set.

    A program handles the BC queries of a sub-chunk. Decays from earlier sub-chunks are split at its start, so that
    exponents are at most 0.
    """
    i_cs, i_bh = tl.program_id(0), tl.program_id(1)
    H = G * R
    i_b, i_h = (i_bh // H).to(tl.int64), i_bh % H
    i_g = i_h // R
    i_s = i_cs % (BT // BC)
    first = (i_cs // (BT // BC)) * BT
    start = first + i_s * BC
    o_c, o_k = tl.arange(0, BC), tl.arange(0, BK)
    m_k = o_k < K
    o_i = start + o_c
    m_i = o_i < T
    m_q = m_i[:, None] & m_k[None, :]
    query = (i_b * T + o_i) * H + i_h
    b_q = tl.load(p_q + query[:, None] * K + o_k[None, :], mask=m_q, other=0.0)
    b_total = tl.load(p_total + (((i_b * T + o_i) * G) + i_g)[:, None] * K + o_k[None, :], mask=m_q, other=0.0)
    p_out = p_pairs + query[:, None] * BT
    if start < T:
        if i_s > 0:
            b_start = tl.load(p_total + ((i_b * T + start - 1) * G + i_g) * K + o_k, mask=m_k, other=0.0)
            b_late = (b_q * tl.exp(tl.minimum(b_total - b_start[None, :], 0.0))).to(b_q.dtype)
            for j in range(i_s):
                key = (i_b * T + first + j * BC + o_c) * G + i_g
                o_key = key[:, None] * K + o_k[None, :]
                b_k = tl.load(p_k + o_key, mask=m_k[None, :], other=0.0)
                b_total_j = tl.load(p_total + o_key, mask=m_k[None, :], other=0.0)
                b_early = (b_k * tl.exp(b_start[None, :] - b_total_j)).to(b_k.dtype)
                b_far = dot(b_late, tl.trans(b_early))
                tl.store(p_out + (j * BC + o_c)[None, :], b_far.to(p_pairs.dtype.element_ty), mask=m_i[:, None])
        b_near = tl.zeros([BC, BC], tl.float32)
        for j in range(tl.minimum(BC, T - start)):
            o_key = ((i_b * T + start + j) * G + i_g) * K + o_k
            b_k = tl.load(p_k + o_key, mask=m_k, other=0.0).to(tl.float32)
            b_total_j = tl.load(p_total + o_key, mask=m_k, other=0.0)
            b_fade = tl.exp(tl.minimum(b_total - b_total_j[None, :], 0.0))
            b_column = tl.sum(b_q * b_k[None, :] * b_fade, 1)
            b_near = tl.where((o_c == j)[None, :], b_column[:, None], b_near)
        tl.store(p_out + (i_s * BC + o_c)[None, :], b_near.to(p_pairs.dtype.element_ty), mask=m_i[:, None])


@triton.jit
def chunk_output(
    p_q, p_k, p_v, p_total, p_states, p_pairs, p_o, T, NC,
    G: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    DECAY: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """o_i = (e^total_i q_i)^T S + sum_{j <= i} pairs_ij v_j; pairs are computed here unless DECAY is 2."""
    i_v, i_c, i_bh = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    H = G * R
    i_b, i_h = (i_bh // H).to(tl.int64), i_bh % H
    i_g = i_h // R
    o_i, o_v = tl.arange(0, BT), i_v * BV + tl.arange(0, BV)
    o_t = i_c * BT + o_i
    m_t, m_v = o_t < T, o_v < V
    row = i_b * T + o_t
    b_o = tl.zeros([BT, BV], tl.float32)
    b_pairs = tl.zeros([BT, BT], tl.float32)
    p_S = p_states + ((i_b * (NC + 1) + i_c) * G + i_g) * K * V
    for i_k in range(tl.cdiv(K, BK)):
        o_k = i_k * BK + tl.arange(0, BK)
        m_k = o_k < K
        m_tk = m_t[:, None] & m_k[None, :]
        b_q = tl.load(p_q + (row * H + i_h)[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
        b_S = tl.load(p_S + o_k[:, None] * V + o_v[None, :], mask=m_k[:, None] & m_v[None, :], other=0.0)
        o_key = (row * G + i_g)[:, None] * K + o_k[None, :]
        if DECAY == 2:
            b_q = (b_q * tl.exp(tl.load(p_total + o_key, mask=m_tk, other=0.0))).to(b_q.dtype)
        else:
            b_pairs += dot(b_q, tl.trans(tl.load(p_k + o_key, mask=m_tk, other=0.0)))
        b_o += dot(b_q, b_S)
    is_past = (o_i[:, None] >= o_i[None, :]) & m_t[:, None]
    if DECAY == 1:
        b_total = tl.load(p_total + row * G + i_g, mask=m_t, other=0.0)
        b_o *= tl.exp(b_total)[:, None]
        b_pairs *= tl.exp(tl.where(is_past, b_total[:, None] - b_total[None, :], 0.0))
    if DECAY == 2:
        o_pairs = (row * H + i_h)[:, None] * BT + o_i[None, :]
        b_pairs = tl.load(p_pairs + o_pairs, mask=is_past, other=0.0)
    o_value = (row * G + i_g)[:, None] * V + o_v[None, :]
    m_tv = m_t[:, None] & m_v[None, :]
    b_v = tl.load(p_v + o_value, mask=m_tv, other=0.0)
    b_o += dot(tl.where(is_past, b_pairs, 0.0).to(b_v.dtype), b_v)
    o_out = (row * H + i_h)[:, None] * V + o_v[None, :]
    tl.store(p_o + o_out, b_o.to(p_o.dtype.element_ty), mask=m_tv)


@triton.jit
def recurrent_step(
    p_q, p_k, p_v, p_log_a, p_beta, p_first, p_o, p_last, T,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    R: tl.constexpr, DECAY: tl.constexpr, DELTA: tl.constexpr, HAS_FIRST: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
):
    """Decode token by token with the state in registers. log_a [B, T, G, 1 or K], beta [B, T, G]."""
    i_v, i_bg = tl.program_id(0), tl.program_id(1)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_k, o_v = tl.arange(0, BK), i_v * BV + tl.arange(0, BV)
    m_k, m_v = o_k < K, o_v < V
    m_S = m_k[:, None] & m_v[None, :]
    o_S = i_bg.to(tl.int64) * K * V + o_k[:, None] * V + o_v[None, :]
    b_S = tl.zeros([BK, BV], tl.float32)
    if HAS_FIRST:
        b_S += tl.load(p_first + o_S, mask=m_S, other=0.0).to(tl.float32)
    for t in range(T):
        group = (i_b * T + t) * G + i_g
        b_k = tl.load(p_k + group * K + o_k, mask=m_k, other=0.0).to(tl.float32)
        b_v = tl.load(p_v + group * V + o_v, mask=m_v, other=0.0).to(tl.float32)
        if DECAY == 1:
            b_S *= tl.exp(tl.load(p_log_a + group).to(tl.float32))
        if DECAY == 2:
            b_log_a = tl.load(p_log_a + group * K + o_k, mask=m_k, other=0.0).to(tl.float32)
            b_S *= tl.exp(b_log_a)[:, None]
        if DELTA:
            b_v = tl.load(p_beta + group).to(tl.float32) * (b_v - tl.sum(b_S * b_k[:, None], 0))
        b_S += b_k[:, None] * b_v[None, :]
        for r in tl.static_range(R):
            head = group * R + r
            b_q = tl.load(p_q + head * K + o_k, mask=m_k, other=0.0).to(tl.float32)
            b_o = tl.sum(b_S * b_q[:, None], 0)
            tl.store(p_o + head * V + o_v, b_o.to(p_o.dtype.element_ty), mask=m_v)
    tl.store(p_last + o_S, b_S, mask=m_S)
