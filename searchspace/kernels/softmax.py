"""Softmax of rows of any length over their visible entries, in two passes: statistics of the row, then its values.

    w_j = exp(s_j - m) / sum_i exp(s_i - m)      ds_j = w_j (dw_j - sum_i w_i dw_i)

The first pass updates maximum and sum together in float32 (Milakov and Gimelshein, arXiv:1805.02867). A row without
visible entries is 0. The signature is that of `primitives.row_statistics.masked_softmax`. Shapes: rows [N, S].
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.products import DTYPES, tile

MAX_AXES = 4
LARGEST = 4096  # largest number of scores of a row per step


@triton.jit
def _sees(p_visible, i_n, o_s, S, H, T, stride_b, stride_h, stride_t, stride_s):
    place = (i_n // (H * T)) * stride_b + (i_n // T % H) * stride_h + (i_n % T) * stride_t
    return (o_s < S) & (tl.load(p_visible + place + o_s.to(tl.int64) * stride_s, mask=o_s < S, other=0) != 0)


@triton.jit
def softmax_forward(
    p_scores, p_visible, p_weights, S, H, T, stride_b, stride_h, stride_t, stride_s, BS: tl.constexpr
):
    """Compute one row of contiguous scores [B, H, T, S] with visible [B, H, T, S] of any strides."""
    i_n = tl.program_id(0).to(tl.int64)
    p_scores += i_n * S
    b_top = tl.full([BS], float("-inf"), tl.float32)
    b_total = tl.zeros([BS], tl.float32)
    for s in range(0, S, BS):
        o_s = s + tl.arange(0, BS)
        b_seen = _sees(p_visible, i_n, o_s, S, H, T, stride_b, stride_h, stride_t, stride_s)
        b_score = tl.load(p_scores + o_s, mask=b_seen, other=float("-inf")).to(tl.float32)
        b_new = tl.maximum(b_top, b_score)
        b_level = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_total = b_total * tl.exp(b_top - b_level) + tl.exp(b_score - b_level)
        b_top = b_new
    top = tl.max(b_top, 0)
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(b_total * tl.exp(b_top - top), 0)
    share = 1.0 / tl.where(total == 0.0, 1.0, total)
    for s in range(0, S, BS):
        o_s = s + tl.arange(0, BS)
        b_seen = _sees(p_visible, i_n, o_s, S, H, T, stride_b, stride_h, stride_t, stride_s)
        b_score = tl.load(p_scores + o_s, mask=b_seen, other=float("-inf")).to(tl.float32)
        tl.store(p_weights + i_n * S + o_s, tl.exp(b_score - top) * share, mask=o_s < S)


@triton.jit
def softmax_backward(p_weights, p_dweights, p_dscores, S, BS: tl.constexpr):
    """Compute the gradient of one row; all tensors are contiguous."""
    offset = tl.program_id(0).to(tl.int64) * S
    b_sum = tl.zeros([BS], tl.float32)
    for s in range(0, S, BS):
        o_s = s + tl.arange(0, BS)
        b_w = tl.load(p_weights + offset + o_s, mask=o_s < S, other=0.0).to(tl.float32)
        b_sum += b_w * tl.load(p_dweights + offset + o_s, mask=o_s < S, other=0.0).to(tl.float32)
    mean = tl.sum(b_sum, 0)
    for s in range(0, S, BS):
        o_s = s + tl.arange(0, BS)
        b_w = tl.load(p_weights + offset + o_s, mask=o_s < S, other=0.0).to(tl.float32)
        b_dw = tl.load(p_dweights + offset + o_s, mask=o_s < S, other=0.0).to(tl.float32)
        tl.store(p_dscores + offset + o_s, b_w * (b_dw - mean), mask=o_s < S)


def masked_softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax of scores [..., S] over visible keys; `visible` is broadcastable to scores. Returns [..., S].

    Raises ValueError for other dtypes than DTYPES or more than MAX_AXES axes.
    """
    if scores.dtype not in DTYPES or scores.dim() > MAX_AXES:
        raise ValueError(
            f"masked_softmax kernel: takes float32, float16 or bfloat16 with at most {MAX_AXES} axes, "
            f"got {scores.dtype} with {scores.dim()}"
        )
    weights: Tensor = _Softmax.apply(scores, visible)
    return weights


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, visible: Tensor) -> Tensor:
        scores = scores.contiguous()
        weights = torch.empty_like(scores)
        shape = (1,) * (MAX_AXES - scores.dim()) + tuple(scores.shape)
        seen = visible.view(torch.uint8).expand(shape)
        _, H, T, S = shape
        BS = tile(S, LARGEST)
        softmax_forward[scores.numel() // S,](
            scores, seen, weights, S, H, T, *seen.stride(), BS=BS, num_warps=num_warps(BS)
        )
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dweights: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        dscores = torch.empty_like(weights)
        S = weights.shape[-1]
        BS = tile(S, LARGEST)
        softmax_backward[weights.numel() // S,](
            weights, dweights.contiguous(), dscores, S, BS=BS, num_warps=num_warps(BS)
        )
        return dscores, None


def num_warps(BS: int) -> int:
    return min(16, max(1, BS // 256))


def _cases() -> tuple[Case, ...]:
    found = []
    for dtype in ("fp32", "bf16"):
        p = "*" + dtype
        options = {"constants": {"BS": LARGEST}, "num_warps": num_warps(LARGEST), "label": dtype}
        integers = dict.fromkeys(("S", "H", "T", "stride_b", "stride_h", "stride_t", "stride_s"), "i32")
        forward = {"p_scores": p, "p_visible": "*u8", "p_weights": p} | integers
        found.append(Case(softmax_forward, forward, **options))  # type: ignore[arg-type]
        backward = {"p_weights": p, "p_dweights": p, "p_dscores": p, "S": "i32"}
        found.append(Case(softmax_backward, backward, **options))  # type: ignore[arg-type]
    return tuple(found)


CASES = _cases()
