"""RMSNorm and LayerNorm over the last axis in one pass, alone or after a residual addition, forward and backward.

    s = x + r      y = w s / sqrt(mean(s^2) + eps)      y = w (s - mean(s)) / sqrt(var(s) + eps) + b

Signatures are those of searchspace.primitives.row_norms. The sum s is rounded to the dtype of x before it is
normalized, since it is also returned. In the backward pass each program sums the gradient of w over its rows and torch
adds these sums, so results are deterministic. Shapes: x, r and y [..., D], w and b [D]; N rows. The public functions
raise ValueError for other dtypes or D above MAX_WIDTH.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.products import DTYPES
from searchspace.kernels.tiles import num_multiprocessors

MAX_WIDTH = 8192
TILE = 4096  # values in a program's tile, unless one row is longer


@triton.jit
def norm_forward(
    p_x, p_r, p_w, p_b, p_y, p_s, p_mean, p_scale, N, D, eps,
    CENTRED: tl.constexpr, ADDED: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Normalize BN rows; stores their mean (CENTRED), 1 / deviation, and s = x + r (ADDED)."""
    o_n, o_d = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN), tl.arange(0, BD)
    place, inside = o_n[:, None] * D + o_d[None, :], (o_n < N)[:, None] & (o_d < D)[None, :]
    b_s = tl.load(p_x + place, mask=inside, other=0.0)
    if ADDED:
        b_s = (b_s.to(tl.float32) + tl.load(p_r + place, mask=inside, other=0.0).to(tl.float32)).to(b_s.dtype)
        tl.store(p_s + place, b_s, mask=inside)
    b_s = b_s.to(tl.float32)
    if CENTRED:
        b_mean = tl.sum(b_s, 1) / D
        tl.store(p_mean + o_n, b_mean, mask=o_n < N)
        b_s = tl.where(inside, b_s - b_mean[:, None], 0.0)
    b_scale = 1.0 / tl.sqrt(tl.sum(b_s * b_s, 1) / D + eps)
    tl.store(p_scale + o_n, b_scale, mask=o_n < N)
    b_y = b_s * b_scale[:, None] * tl.load(p_w + o_d, mask=o_d < D, other=0.0).to(tl.float32)[None, :]
    if CENTRED:
        b_y += tl.load(p_b + o_d, mask=o_d < D, other=0.0).to(tl.float32)[None, :]
    tl.store(p_y + place, b_y, mask=inside)


@triton.jit
def norm_backward(
    p_s, p_w, p_mean, p_scale, p_dy, p_ds, p_dx, p_dw, p_db, N, D,
    CENTRED: tl.constexpr, ADDED: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A program handles every P-th tile of BN rows; dw and db [P, D] are sums over its rows, ds is the gradient of the
    returned s."""
    o_d = tl.arange(0, BD)
    b_w = tl.load(p_w + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    b_dw = tl.zeros([BD], tl.float32)
    b_db = tl.zeros([BD], tl.float32)
    for i_n in range(tl.program_id(0), tl.cdiv(N, BN), tl.num_programs(0)):
        o_n = tl.cast(i_n, tl.int64) * BN + tl.arange(0, BN)
        place, inside = o_n[:, None] * D + o_d[None, :], (o_n < N)[:, None] & (o_d < D)[None, :]
        b_s = tl.load(p_s + place, mask=inside, other=0.0).to(tl.float32)
        b_dy = tl.load(p_dy + place, mask=inside, other=0.0).to(tl.float32)
        b_scale = tl.load(p_scale + o_n, mask=o_n < N, other=0.0)
        if CENTRED:
            b_s = tl.where(inside, b_s - tl.load(p_mean + o_n, mask=o_n < N, other=0.0)[:, None], 0.0)
            b_db += tl.sum(b_dy, 0)
        b_unit = b_s * b_scale[:, None]
        b_dw += tl.sum(b_dy * b_unit, 0)
        b_dunit = b_dy * b_w[None, :]
        b_dx = b_dunit - b_unit * (tl.sum(b_dunit * b_unit, 1) / D)[:, None]
        if CENTRED:
            b_dx -= (tl.sum(b_dunit, 1) / D)[:, None]
        b_dx = b_dx * b_scale[:, None]
        if ADDED:
            b_dx += tl.load(p_ds + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(p_dx + place, b_dx, mask=inside)
    row = tl.program_id(0) * D
    tl.store(p_dw + row + o_d, b_dw, mask=o_d < D)
    if CENTRED:
        tl.store(p_db + row + o_d, b_db, mask=o_d < D)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x [..., D] with weight [D]."""
    return _norm("rms_norm", x, None, weight, None, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(RMSNorm of x + residual, x + residual), each [..., D]."""
    return _norm("rms_norm", x, residual, weight, None, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of x [..., D] with weight and bias [D]."""
    return _norm("layer_norm", x, None, weight, bias, eps)[0]


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(LayerNorm of x + residual, x + residual), each [..., D]."""
    return _norm("layer_norm", x, residual, weight, bias, eps)


def _norm(
    name: str, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    if x.dtype not in DTYPES or x.shape[-1] > MAX_WIDTH:
        raise ValueError(
            f"{name} kernel: takes float32, float16 or bfloat16 and rows of at most {MAX_WIDTH}, "
            f"got {x.dtype} and {x.shape[-1]}"
        )
    y, total = _Norm.apply(x, residual, weight, bias, eps)
    return y, total


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor | None]:
        x, D = x.contiguous(), x.shape[-1]
        N = x.numel() // D
        y, scale = torch.empty_like(x), torch.empty(N, device=x.device, dtype=torch.float32)
        mean = scale if bias is None else torch.empty_like(scale)
        total = x if residual is None else torch.empty_like(x)
        BN, BD, num_warps = _tile(D)
        norm_forward[triton.cdiv(N, BN),](
            x, x if residual is None else residual.contiguous(), weight, weight if bias is None else bias,
            y, total, mean, scale, N, D, eps,
            CENTRED=bias is not None, ADDED=residual is not None, BN=BN, BD=BD, num_warps=num_warps,
        )  # fmt: skip
        ctx.save_for_backward(total, weight, mean, scale)
        ctx.is_centred, ctx.is_added = bias is not None, residual is not None
        return y, total if ctx.is_added else None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, mean, scale = ctx.saved_tensors
        N, D = scale.numel(), weight.numel()
        BN, BD, num_warps = _tile(D)
        P = min(triton.cdiv(N, BN), 2 * num_multiprocessors(dy.device))
        dx, dy = torch.empty_like(total), dy.contiguous()
        sums = torch.empty(2 if ctx.is_centred else 1, P, D, device=dy.device, dtype=torch.float32)
        norm_backward[P,](
            total, weight, mean, scale, dy, dtotal.contiguous() if dtotal is not None else dy, dx, sums[0], sums[-1],
            N, D, CENTRED=ctx.is_centred, ADDED=ctx.is_added, BN=BN, BD=BD, num_warps=num_warps,
        )  # fmt: skip
        dw, db = (t.to(weight.dtype) for t in (sums[0].sum(0), sums[-1].sum(0)))
        return dx, dx if ctx.is_added else None, dw, db if ctx.is_centred else None, None


def _tile(D: int) -> tuple[int, int, int]:
    """(BN, BD, number of warps)."""
    BD = triton.next_power_of_2(D)
    BN = max(1, min(16, TILE // BD))
    return BN, BD, min(16, max(4, BN * BD // 512))


def _cases() -> tuple[Case, ...]:
    found = []
    for D, dtype in ((1024, "bf16"), (64, "fp32"), (MAX_WIDTH, "bf16"), (MAX_WIDTH, "fp32")):
        BN, BD, num_warps = _tile(D)
        for kernel in (norm_forward, norm_backward):
            pointers = {name: "*" + dtype for name in kernel.arg_names if name.startswith("p_")}
            single = {name: "*fp32" for name in ("p_mean", "p_scale", "p_dw", "p_db") if name in pointers}
            scalars = {"N": "i32"} | ({"eps": "fp32"} if kernel is norm_forward else {})
            for is_centred in (False, True):
                constants = {"CENTRED": is_centred, "ADDED": True, "D": D, "BN": BN, "BD": BD}
                label = f"{dtype} D{D} {'layer' if is_centred else 'rms'}"
                found.append(
                    Case(kernel, pointers | single | scalars, constants, num_warps=num_warps, label=label)
                )
    return tuple(found)


CASES = _cases()
