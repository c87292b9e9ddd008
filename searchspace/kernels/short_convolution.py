"""A short causal depthwise convolution over tokens, optionally followed by SiLU, in Triton.

    a_t[c] = sum_i w[c, i] x_{t - i delta}[c]          y = a or silu(a)

Computes `searchspace.primitives.convolution.causal_convolution`. Tokens before the sequence are `earlier`, or 0.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.products import check_operands, in_batches

MAX_PAST = 256
BLOCK_T, BLOCK_C = 32, 64


# Keep the kernels' arguments grouped:
# fmt: off
@triton.jit
def load_seen(
    p_x, p_earlier, i_b, o_s, o_c, T, C: tl.constexpr, PAST: tl.constexpr, HAS_EARLIER: tl.constexpr,
):
    """Load tokens o_s of x, or of `earlier` [B, PAST, C] for o_s < 0; 0 outside both."""
    m_c = (o_c < C)[None, :]
    m_x = ((o_s >= 0) & (o_s < T))[:, None] & m_c
    b_x = tl.load(p_x + (i_b * T + o_s)[:, None] * C + o_c[None, :], mask=m_x, other=0.0).to(tl.float32)
    if HAS_EARLIER:
        m_earlier = ((o_s < 0) & (o_s >= -PAST))[:, None] & m_c
        o_earlier = (i_b * PAST + PAST + o_s)[:, None] * C + o_c[None, :]
        b_x += tl.load(p_earlier + o_earlier, mask=m_earlier, other=0.0).to(tl.float32)
    return b_x


@triton.jit
def convolve(
    p_x, p_w, p_earlier, p_y, p_kept, T, C: tl.constexpr,
    TAPS: tl.constexpr, DILATION: tl.constexpr, SILU: tl.constexpr, HAS_EARLIER: tl.constexpr,
    BT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):
    """Compute y, and kept [B, PAST, C], the last PAST tokens; BP covers PAST."""
    PAST: tl.constexpr = (TAPS - 1) * DILATION
    i_c, i_t, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_c, o_t = i_c * BC + tl.arange(0, BC), i_t * BT + tl.arange(0, BT)
    m_c = o_c < C
    b_y = tl.zeros([BT, BC], tl.float32)
    for i in tl.static_range(TAPS):
        b_w = tl.load(p_w + o_c * TAPS + i, mask=m_c, other=0.0).to(tl.float32)
        b_y += load_seen(p_x, p_earlier, i_b, o_t - i * DILATION, o_c, T, C, PAST, HAS_EARLIER) * b_w[None, :]
    if SILU:
        b_y *= tl.sigmoid(b_y)
    o_y = (i_b * T + o_t)[:, None] * C + o_c[None, :]
    tl.store(p_y + o_y, b_y.to(p_y.dtype.element_ty), mask=(o_t < T)[:, None] & m_c[None, :])
    if HAS_EARLIER:  # noqa: SIM102 (a constant of the compilation)
        if i_t == 0:
            o_p = tl.arange(0, BP)
            b_kept = load_seen(p_x, p_earlier, i_b, T - PAST + o_p, o_c, T, C, PAST, HAS_EARLIER)
            o_kept = (i_b * PAST + o_p)[:, None] * C + o_c[None, :]
            tl.store(p_kept + o_kept, b_kept.to(p_kept.dtype.element_ty), mask=(o_p < PAST)[:, None] & m_c[None, :])


@triton.jit
def tap_gradients(
    p_x, p_w, p_earlier, p_dy, p_da, p_dw, T, C: tl.constexpr,
    TAPS: tl.constexpr, DILATION: tl.constexpr, SILU: tl.constexpr, HAS_EARLIER: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):
    """Compute da [B, T, C] (stored if SILU) and dw [B, tiles of T, TAPS, C], partial sums of each tile."""
    PAST: tl.constexpr = (TAPS - 1) * DILATION
    i_c, i_t, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_c, o_t = i_c * BC + tl.arange(0, BC), i_t * BT + tl.arange(0, BT)
    m_c = o_c < C
    m_tc = (o_t < T)[:, None] & m_c[None, :]
    o_y = (i_b * T + o_t)[:, None] * C + o_c[None, :]
    b_da = tl.load(p_dy + o_y, mask=m_tc, other=0.0).to(tl.float32)
    if SILU:
        b_a = tl.zeros([BT, BC], tl.float32)
        for i in tl.static_range(TAPS):
            b_w = tl.load(p_w + o_c * TAPS + i, mask=m_c, other=0.0).to(tl.float32)
            b_a += load_seen(p_x, p_earlier, i_b, o_t - i * DILATION, o_c, T, C, PAST, HAS_EARLIER) * b_w[None, :]
        b_gate = tl.sigmoid(b_a)
        b_da *= b_gate * (1.0 + b_a * (1.0 - b_gate))
        tl.store(p_da + o_y, b_da.to(p_da.dtype.element_ty), mask=m_tc)
    p_out = p_dw + (i_b * tl.num_programs(1) + i_t) * TAPS * C + o_c
    for i in tl.static_range(TAPS):
        b_x = load_seen(p_x, p_earlier, i_b, o_t - i * DILATION, o_c, T, C, PAST, HAS_EARLIER)
        tl.store(p_out + i * C, tl.sum(b_x * b_da, 0), mask=m_c)


@triton.jit
def input_gradients(
    p_w, p_da, p_dkept, p_dx, p_dearlier, T, C: tl.constexpr,
    TAPS: tl.constexpr, DILATION: tl.constexpr, HAS_EARLIER: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):
    """dx_s = sum_i w_i da_{s + i delta}, which for s < 0 is the gradient of `earlier`, plus the gradient of `kept`."""
    PAST: tl.constexpr = (TAPS - 1) * DILATION
    i_c, i_t, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_c, o_s = i_c * BC + tl.arange(0, BC), i_t * BT + tl.arange(0, BT)
    if HAS_EARLIER:
        o_s -= PAST
    m_c = (o_c < C)[None, :]
    b_dx = tl.zeros([BT, BC], tl.float32)
    for i in tl.static_range(TAPS):
        o_t = o_s + i * DILATION
        m_t = ((o_t >= 0) & (o_t < T))[:, None] & m_c
        b_w = tl.load(p_w + o_c * TAPS + i, mask=o_c < C, other=0.0).to(tl.float32)
        b_dx += tl.load(p_da + (i_b * T + o_t)[:, None] * C + o_c[None, :], mask=m_t, other=0.0) * b_w[None, :]
    if HAS_EARLIER:
        o_p = o_s - T + PAST
        m_p = ((o_p >= 0) & (o_p < PAST))[:, None] & m_c
        b_dx += tl.load(p_dkept + (i_b * PAST + o_p)[:, None] * C + o_c[None, :], mask=m_p, other=0.0)
        o_earlier = (i_b * PAST + PAST + o_s)[:, None] * C + o_c[None, :]
        tl.store(p_dearlier + o_earlier, b_dx.to(p_dearlier.dtype.element_ty), mask=(o_s < 0)[:, None] & m_c)
    m_s = ((o_s >= 0) & (o_s < T))[:, None] & m_c
    tl.store(p_dx + (i_b * T + o_s)[:, None] * C + o_c[None, :], b_dx.to(p_dx.dtype.element_ty), mask=m_s)

# fmt: on


def short_convolution(
    x: Tensor, weight: Tensor, earlier: Tensor | None, dilation: int = 1, silu: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(y [B, T, C], the last (taps - 1) * dilation tokens, None without `earlier`) of x [B, T, C], weight [C, taps].

    earlier: [B, (taps - 1) * dilation, C]. Raises ValueError for other dtypes or if it exceeds MAX_PAST tokens.
    """
    check_operands("short_convolution", x, weight, *([] if earlier is None else [earlier]))
    past = (weight.shape[1] - 1) * dilation
    if past > MAX_PAST:
        raise ValueError(f"short_convolution kernel: reaches back {MAX_PAST} tokens at most, got {past}")

    def run(x: Tensor, earlier: Tensor | None) -> tuple[Tensor, Tensor | None]:
        y, kept = _ShortConvolution.apply(x, weight, earlier, dilation, silu)
        return y, kept

    y, kept = in_batches(run, 1, x, earlier if past else None)
    return y, (earlier if not past else kept)


def _tiles(T: int, C: int) -> tuple[int, int]:
    return min(BLOCK_T, triton.next_power_of_2(T)), min(BLOCK_C, triton.next_power_of_2(C))


class _ShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, earlier: Tensor | None, dilation: int, silu: bool
    ) -> tuple[Tensor, Tensor | None]:
        x, weight = x.contiguous(), weight.contiguous()
        earlier = None if earlier is None else earlier.contiguous()
        B, T, C = x.shape
        BT, BC = _tiles(T, C)
        y = torch.empty_like(x)
        kept = None if earlier is None else torch.empty_like(earlier)
        BP = 1 if earlier is None else triton.next_power_of_2(earlier.shape[1])
        convolve[triton.cdiv(C, BC), triton.cdiv(T, BT), B](
            x,
            weight,
            earlier,
            y,
            kept,
            T,
            C,
            TAPS=weight.shape[1],
            DILATION=dilation,
            SILU=silu,
            HAS_EARLIER=earlier is not None,
            BT=BT,
            BP=BP,
            BC=BC,
            num_warps=4,
        )
        ctx.save_for_backward(x, weight, earlier)
        ctx.dilation, ctx.silu = dilation, silu
        return y, kept

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dkept: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, earlier = ctx.saved_tensors
        B, T, C = x.shape
        BT, BC = _tiles(T, C)
        taps, has_earlier = weight.shape[1], earlier is not None
        dy = dy.contiguous()
        dkept = dkept.contiguous() if has_earlier and dkept is not None else None
        da = torch.empty_like(dy) if ctx.silu else dy
        shares = x.new_empty(B, triton.cdiv(T, BT), taps, C, dtype=torch.float32)
        constants = {"TAPS": taps, "DILATION": ctx.dilation, "HAS_EARLIER": has_earlier, "BT": BT, "BC": BC}
        tap_gradients[triton.cdiv(C, BC), triton.cdiv(T, BT), B](
            x, weight, earlier, dy, da, shares, T, C, SILU=ctx.silu, **constants, num_warps=4
        )
        dx = torch.empty_like(x)
        dearlier = torch.empty_like(earlier) if has_earlier else None
        length = T + (earlier.shape[1] if has_earlier else 0)
        input_gradients[triton.cdiv(C, BC), triton.cdiv(length, BT), B](
            weight, da, dkept, dx, dearlier, T, C, **constants, num_warps=4
        )
        return dx, shares.sum((0, 1)).T.to(weight.dtype), dearlier, None, None


def _case(kernel: Any, dtype: str, sums: str, constants: dict[str, Any]) -> Case:
    constants = {n: v for n, v in constants.items() if n in kernel.arg_names}
    signature = {n: f"*{dtype}" for n in kernel.arg_names if n.startswith("p_")}
    signature |= dict.fromkeys(sums.split(), "*fp32") | {"T": "i32"}
    return Case(kernel, signature, constants, label=f"{dtype} {constants}")


CASES = tuple(
    _case(
        kernel,
        dtype,
        "p_dw" if kernel is tap_gradients else "",
        {
            "C": 1024,
            "TAPS": 4,
            "DILATION": 1,
            "SILU": True,
            "HAS_EARLIER": True,
            "BT": BT,
            "BP": 4,
            "BC": BLOCK_C,
        },
    )
    for dtype in ("bf16", "fp32")
    for kernel, BT in (
        (convolve, BLOCK_T),
        (convolve, 1),
        (tap_gradients, BLOCK_T),
        (input_gradients, BLOCK_T),
    )
)
