"""Triton kernels of the gradients of the gated linear recurrence, chunk by chunk.

Letters as in `recurrence_forward`; `later` [B, NC + 1, G, K, V] holds the gradient of the state that leaves each chunk.
With P_ij the pairs, w_ij = do_i . v_j for j <= i, and decays written as e^{..}:

    dq_i = sum_j w_ij e^{ij} k_j + e^{total_i} S do_i         dv_j = sum_i P_ij do_i + (e^{end - total_j} k_j)^T later
    dk_j = sum_i w_ij e^{ij} q_i + e^{end - total_j} later v_j
    dtotal_i = q_i dq_i - k_i dk_i, plus sum_v S_next later for the chunk's last token, to which all terms decay
"""

from __future__ import annotations

import triton
import triton.language as tl

from searchspace.kernels.products import dot


# The arguments of kernels stay in groups:
# fmt: off
@triton.jit
def value_gradients(
    p_q, p_k, p_do, p_total, p_later, p_pairs, p_dv, T, NC,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    R: tl.constexpr, DECAY: tl.constexpr, HAS_LATER: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    i_v, i_c, i_bg = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_i, o_v = tl.arange(0, BT), i_v * BV + tl.arange(0, BV)
    o_t = i_c * BT + o_i
    m_t, m_v = o_t < T, o_v < V
    row = i_b * T + o_t
    end = i_b * T + tl.minimum(i_c * BT + BT, T) - 1
    m_tv = m_t[:, None] & m_v[None, :]
    is_later = (o_i[:, None] <= o_i[None, :]) & m_t[None, :]  # [key, query]
    b_dv = tl.zeros([BT, BV], tl.float32)
    if DECAY == 1:
        b_total = tl.load(p_total + row * G + i_g, mask=m_t, other=0.0)
        b_fade = tl.exp(tl.where(is_later, b_total[None, :] - b_total[:, None], 0.0))
    if HAS_LATER:
        p_D = p_later + ((i_b * (NC + 1) + i_c) * G + i_g) * K * V
        for i_k in range(tl.cdiv(K, BK)):
            o_k = i_k * BK + tl.arange(0, BK)
            m_k = o_k < K
            m_tk = m_t[:, None] & m_k[None, :]
            o_key = (row * G + i_g)[:, None] * K + o_k[None, :]
            b_k = tl.load(p_k + o_key, mask=m_tk, other=0.0)
            if DECAY == 2:
                b_end = tl.load(p_total + (end * G + i_g) * K + o_k, mask=m_k, other=0.0)
                b_to_end = b_end[None, :] - tl.load(p_total + o_key, mask=m_tk, other=0.0)
                b_k = (b_k * tl.exp(b_to_end)).to(b_k.dtype)
            b_D = tl.load(p_D + o_k[:, None] * V + o_v[None, :], mask=m_k[:, None] & m_v[None, :], other=0.0)
            b_dv += dot(b_k, b_D)
        if DECAY == 1:
            b_dv *= tl.exp(tl.load(p_total + end * G + i_g) - b_total)[:, None]
    for r in range(R):
        head = row * (G * R) + i_g * R + r
        b_do = tl.load(p_do + head[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
        if DECAY == 2:
            b_pairs = tl.load(p_pairs + head[None, :] * BT + o_i[:, None], mask=is_later, other=0.0).to(tl.float32)
        else:
            b_pairs = tl.zeros([BT, BT], tl.float32)
            for i_k in range(tl.cdiv(K, BK)):
                o_k = i_k * BK + tl.arange(0, BK)
                m_tk = m_t[:, None] & (o_k < K)[None, :]
                b_k = tl.load(p_k + (row * G + i_g)[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
                b_q = tl.load(p_q + head[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
                b_pairs += dot(b_k, tl.trans(b_q))
            if DECAY == 1:
                b_pairs *= b_fade
        b_dv += dot(tl.where(is_later, b_pairs, 0.0).to(b_do.dtype), b_do)
    tl.store(p_dv + (row * G + i_g)[:, None] * V + o_v[None, :], b_dv.to(p_dv.dtype.element_ty), mask=m_tv)


@triton.jit
def query_key_gradients(
    p_q, p_k, p_v, p_do, p_total, p_states, p_later, p_dq, p_dk, p_dtotal, B, T, NC,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    R: tl.constexpr, DECAY: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """For DECAY 0 or 1. dtotal [tiles of K, B, T, G] holds the partial sum of each tile of K."""
    i_k, i_c, i_bg = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    o_i, o_k = tl.arange(0, BT), i_k * BK + tl.arange(0, BK)
    o_t = i_c * BT + o_i
    m_t, m_k = o_t < T, o_k < K
    m_tk = m_t[:, None] & m_k[None, :]
    row = i_b * T + o_t
    last = tl.minimum(i_c * BT + BT, T) - 1
    slot = ((i_b * (NC + 1) + i_c) * G + i_g) * K * V
    p_next = p_states + ((i_b * (NC + 1) + i_c + 1) * G + i_g) * K * V
    b_k = tl.load(p_k + (row * G + i_g)[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
    b_dk = tl.zeros([BT, BK], tl.float32)
    fading = 0.0
    for i_v in range(tl.cdiv(V, BV)):
        o_v = i_v * BV + tl.arange(0, BV)
        m_v = o_v < V
        m_S = m_v[:, None] & m_k[None, :]
        o_S = o_v[:, None] + o_k[None, :] * V  # [BV, BK]
        m_tv = m_t[:, None] & m_v[None, :]
        b_v = tl.load(p_v + (row * G + i_g)[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
        b_D = tl.load(p_later + slot + o_S, mask=m_S, other=0.0)
        b_dk += dot(b_v, b_D)
        if DECAY == 1:
            b_next = tl.load(p_next + o_S, mask=m_S, other=0.0).to(tl.float32)
            fading += tl.sum(tl.sum(b_next * b_D, 1), 0)
    is_past = (o_i[:, None] >= o_i[None, :]) & m_t[:, None]
    b_dtotal = tl.zeros([BT], tl.float32)
    if DECAY == 1:
        b_total = tl.load(p_total + row * G + i_g, mask=m_t, other=0.0)
        b_dk *= tl.exp(tl.load(p_total + (i_b * T + last) * G + i_g) - b_total)[:, None]
        b_dtotal += tl.where(o_t == last, fading, 0.0) - tl.sum(b_k * b_dk, 1)
        b_fade = tl.exp(tl.where(is_past, b_total[:, None] - b_total[None, :], 0.0))
    for r in range(R):
        head = row * (G * R) + i_g * R + r
        b_w = tl.zeros([BT, BT], tl.float32)
        b_dq = tl.zeros([BT, BK], tl.float32)
        for i_v in range(tl.cdiv(V, BV)):
            o_v = i_v * BV + tl.arange(0, BV)
            m_v = o_v < V
            m_tv = m_t[:, None] & m_v[None, :]
            b_do = tl.load(p_do + head[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
            b_v = tl.load(p_v + (row * G + i_g)[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
            o_S = o_v[:, None] + o_k[None, :] * V
            b_S = tl.load(p_states + slot + o_S, mask=m_v[:, None] & m_k[None, :], other=0.0)
            b_w += dot(b_do, tl.trans(b_v))
            b_dq += dot(b_do, b_S)
        b_q = tl.load(p_q + head[:, None] * K + o_k[None, :], mask=m_tk, other=0.0)
        if DECAY == 1:
            b_dq *= tl.exp(b_total)[:, None]
            b_w *= b_fade
            # Each pair is added for its query and subtracted for its key as one number, so that they cancel exactly.
            b_pairs = tl.where(o_i[:, None] > o_i[None, :], b_w * dot(b_q, tl.trans(b_k)), 0.0)
            b_dtotal += tl.sum(b_q * b_dq, 1) + tl.sum(b_pairs, 1) - tl.sum(b_pairs, 0)
        b_w = tl.where(is_past, b_w, 0.0).to(b_q.dtype)
        b_dq += dot(b_w, b_k)
        b_dk += dot(tl.trans(b_w), b_q)
        tl.store(p_dq + head[:, None] * K + o_k[None, :], b_dq.to(p_dq.dtype.element_ty), mask=m_tk)
    tl.store(p_dk + (row * G + i_g)[:, None] * K + o_k[None, :], b_dk.to(p_dk.dtype.element_ty), mask=m_tk)
    if DECAY == 1:
        tl.store(p_dtotal + ((i_k * B + i_b) * T + o_t) * G + i_g, b_dtotal, mask=m_t)


@triton.jit
def vector_weights(
    p_v, p_do, p_w, T, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
):
    """Compute w [B, T, H, BT]: w_ij = do_i . v_j within the chunk."""
    i_c, i_bh = tl.program_id(0), tl.program_id(1)
    H = G * R
    i_b, i_h = (i_bh // H).to(tl.int64), i_bh % H
    o_i = tl.arange(0, BT)
    o_t = i_c * BT + o_i
    m_t = o_t < T
    row = i_b * T + o_t
    b_w = tl.zeros([BT, BT], tl.float32)
    for i_v in range(tl.cdiv(V, BV)):
        o_v = i_v * BV + tl.arange(0, BV)
        m_tv = m_t[:, None] & (o_v < V)[None, :]
        b_do = tl.load(p_do + (row * H + i_h)[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
        b_v = tl.load(p_v + (row * G + i_h // R)[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
        b_w += dot(b_do, tl.trans(b_v))
    tl.store(p_w + (row * H + i_h)[:, None] * BT + o_i[None, :], b_w, mask=m_t[:, None])


@triton.jit
def vector_query_key_gradients(
    p_q, p_k, p_v, p_do, p_w, p_total, p_states, p_later, p_dq, p_dk, p_dtotal, T, NC,
    G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    R: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """For DECAY 2. A program handles one sub-chunk, as queries and as keys; decays to and from other sub-chunks are
    split at its start and end, so that exponents are at most 0."""
    i_k, i_cs, i_bg = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_b, i_g = (i_bg // G).to(tl.int64), i_bg % G
    NS: tl.constexpr = BT // BC
    i_c, i_s = i_cs // NS, i_cs % NS
    H = G * R
    first = i_c * BT
    start = first + i_s * BC
    if start < T:
        o_c, o_k = tl.arange(0, BC), i_k * BK + tl.arange(0, BK)
        o_t = start + o_c
        m_t, m_k = o_t < T, o_k < K
        m_tk = m_t[:, None] & m_k[None, :]
        row = i_b * T + o_t
        own = (row * G + i_g)[:, None] * K + o_k[None, :]
        stop = tl.minimum(start + BC, T)
        last = tl.minimum(first + BT, T) - 1
        slot = ((i_b * (NC + 1) + i_c) * G + i_g) * K * V
        p_next = p_states + ((i_b * (NC + 1) + i_c + 1) * G + i_g) * K * V
        b_k = tl.load(p_k + own, mask=m_tk, other=0.0).to(tl.float32)
        b_total = tl.load(p_total + own, mask=m_tk, other=0.0)
        b_start = tl.load(p_total + ((i_b * T + tl.maximum(start, 1) - 1) * G + i_g) * K + o_k, mask=m_k, other=0.0)
        b_stop = tl.load(p_total + ((i_b * T + stop - 1) * G + i_g) * K + o_k, mask=m_k, other=0.0)
        b_end = tl.load(p_total + ((i_b * T + last) * G + i_g) * K + o_k, mask=m_k, other=0.0)
        b_dk = tl.zeros([BC, BK], tl.float32)
        b_dk_own = tl.zeros([BC, BK], tl.float32)
        b_fading = tl.zeros([BK], tl.float32)
        for i_v in range(tl.cdiv(V, BV)):
            o_v = i_v * BV + tl.arange(0, BV)
            m_v = o_v < V
            m_tv = m_t[:, None] & m_v[None, :]
            m_S = m_v[:, None] & m_k[None, :]
            o_S = o_v[:, None] + o_k[None, :] * V
            b_v = tl.load(p_v + (row * G + i_g)[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
            b_D = tl.load(p_later + slot + o_S, mask=m_S, other=0.0)
            b_dk += dot(b_v, b_D)
            if stop > last:
                b_fading += tl.sum(tl.load(p_next + o_S, mask=m_S, other=0.0).to(tl.float32) * b_D, 0)
        b_dk *= tl.exp(tl.minimum(b_end[None, :] - b_total, 0.0))
        b_dtotal = tl.where((o_t == last)[:, None], b_fading[None, :], 0.0)
        for r in range(R):
            i_h = i_g * R + r
            head = row * H + i_h
            b_q = tl.load(p_q + head[:, None] * K + o_k[None, :], mask=m_tk, other=0.0).to(tl.float32)
            b_dq = tl.zeros([BC, BK], tl.float32)
            for i_v in range(tl.cdiv(V, BV)):
                o_v = i_v * BV + tl.arange(0, BV)
                m_v = o_v < V
                m_tv = m_t[:, None] & m_v[None, :]
                b_do = tl.load(p_do + head[:, None] * V + o_v[None, :], mask=m_tv, other=0.0)
                o_S = o_v[:, None] + o_k[None, :] * V
                b_dq += dot(b_do, tl.load(p_states + slot + o_S, mask=m_v[:, None] & m_k[None, :], other=0.0))
            b_dq *= tl.exp(b_total)
            b_far = tl.zeros([BC, BK], tl.float32)
            for j in range(i_s):
                key = (i_b * T + first + j * BC + o_c) * G + i_g
                o_key = key[:, None] * K + o_k[None, :]
                b_w = tl.load(p_w + head[:, None] * BT + (j * BC + o_c)[None, :], mask=m_t[:, None], other=0.0)
                b_k_j = tl.load(p_k + o_key, mask=m_k[None, :], other=0.0)
                b_fade = tl.exp(b_start[None, :] - tl.load(p_total + o_key, mask=m_k[None, :], other=0.0))
                b_far += dot(b_w.to(b_k_j.dtype), (b_k_j * b_fade).to(b_k_j.dtype))
            if i_s > 0:
                b_dq += b_far * tl.exp(tl.minimum(b_total - b_start[None, :], 0.0))
            b_late = tl.zeros([BC, BK], tl.float32)
            for j in range(i_s + 1, NS):
                o_j = first + j * BC + o_c
                m_j = o_j < T
                m_jk = m_j[:, None] & m_k[None, :]
                head_j = (i_b * T + o_j) * H + i_h
                b_w = tl.load(p_w + head_j[None, :] * BT + (i_s * BC + o_c)[:, None], mask=m_j[None, :], other=0.0)
                b_q_j = tl.load(p_q + head_j[:, None] * K + o_k[None, :], mask=m_jk, other=0.0)
                o_key = ((i_b * T + o_j) * G + i_g)[:, None] * K + o_k[None, :]
                b_fade = tl.exp(tl.minimum(tl.load(p_total + o_key, mask=m_jk, other=0.0) - b_stop[None, :], 0.0))
                b_late += dot(b_w.to(b_q_j.dtype), (b_q_j * b_fade).to(b_q_j.dtype))
            b_dk += b_late * tl.exp(tl.minimum(b_stop[None, :] - b_total, 0.0))
            for j in range(stop - start):
                row_j = i_b * T + start + j
                head_j = row_j * H + i_h
                o_key = (row_j * G + i_g) * K + o_k
                b_k_j = tl.load(p_k + o_key, mask=m_k, other=0.0).to(tl.float32)
                b_total_j = tl.load(p_total + o_key, mask=m_k, other=0.0)
                b_w = tl.load(p_w + head * BT + i_s * BC + j, mask=m_t & (o_c > j), other=0.0)
                b_fade = tl.exp(tl.minimum(b_total - b_total_j[None, :], 0.0))
                b_dq += b_w[:, None] * b_k_j[None, :] * b_fade
                b_q_j = tl.load(p_q + head_j * K + o_k, mask=m_k, other=0.0).to(tl.float32)
                b_w = tl.load(p_w + head_j * BT + i_s * BC + o_c, mask=o_c < j, other=0.0)
                b_fade = tl.exp(tl.minimum(b_total_j[None, :] - b_total, 0.0))
                b_dk += b_w[:, None] * b_q_j[None, :] * b_fade
            b_dtotal += b_q * b_dq
            # A token's pair with itself has no decay, so it is left out of dtotal, where it would cancel.
            b_own = tl.load(p_w + head * BT + i_s * BC + o_c, mask=m_t, other=0.0)[:, None]
            b_dq += b_own * b_k
            b_dk_own += b_own * b_q
            tl.store(p_dq + head[:, None] * K + o_k[None, :], b_dq.to(p_dq.dtype.element_ty), mask=m_tk)
        tl.store(p_dk + own, (b_dk + b_dk_own).to(p_dk.dtype.element_ty), mask=m_tk)
        tl.store(p_dtotal + own, b_dtotal - b_k * b_dk, mask=m_tk)
