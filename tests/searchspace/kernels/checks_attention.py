"""The attention kernels against a weight for each pair of tokens: rules, groups, padding, blocks, parts, decode."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from searchspace.kernels import dispatch
from searchspace.kernels.block_lists import block_mask
from searchspace.primitives.merging import merge
from searchspace.primitives.scores import Visibility
from tests.searchspace.kernels.harness import Check, assert_as_accurate


class Shape(NamedTuple):
    B: int
    T: int
    S: int
    G: int
    R: int
    K: int
    V: int


CAUSAL, BIDIRECTIONAL = Visibility(True), Visibility(False)


def formula(
    q: Tensor, k: Tensor, v: Tensor, rule: Visibility, valid: Tensor | None, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y and the log-sum-exp, here 0 where a row sees nothing; seen [H, T, S] hides more."""
    (T, H, K), S = q.shape[1:], k.shape[1]
    k, v = (t.repeat_interleave(H // t.shape[2], 2) for t in (k, v))
    visible = rule.mask(torch.arange(S - T, S), torch.arange(S), valid)
    visible = visible if seen is None else visible & seen
    some = visible.any(-1, keepdim=True)
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(K)
    scores = scores.masked_fill(~visible & some, -torch.inf)
    total = scores.logsumexp(-1, keepdim=True)
    y = torch.einsum("bhts,bshv->bthv", (scores - total).exp() * some, v)
    return y, (total * some).squeeze(-1).transpose(1, 2)


def kernel(
    q: Tensor, k: Tensor, v: Tensor, rule: Visibility, valid: Tensor | None, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same by the kernel; seen [N, n, n] in blocks of 16."""
    run = dispatch.kernel("attention", q.device)
    assert run is not None
    valid, seen = (None if t is None else t.to(q.device) for t in (valid, seen))
    blocks = None if seen is None else block_mask(seen, 16)
    y, lse = run(q, k, v, rule.causal, rule.window, rule.sinks, valid, blocks)
    assert (y[lse == -torch.inf] == 0).all()
    return y, torch.where(lse == -torch.inf, 0.0, lse)


def inputs(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    B, T, S, G, R, K, V = shape
    generator = torch.Generator().manual_seed(T + S + K)
    sizes = (B, T, G * R, K), (B, S, G, K), (B, S, G, V)
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)  # type: ignore[return-value]


def padding(shape: Shape) -> Tensor:
    """The first third of the first sequence is padding, so that its first queries see nothing without sinks."""
    valid = torch.ones(shape.B, shape.S, dtype=torch.bool)
    valid[0, : shape.S // 3] = False
    return valid


def check(
    device: torch.device,
    shape: Shape,
    rule: Visibility,
    dtype: torch.dtype = torch.float32,
    is_padded: bool = False,
    is_trained: bool = True,
) -> None:
    facts: dict[str, Any] = {"rule": rule, "valid": padding(shape) if is_padded else None}
    assert_as_accurate(
        partial(kernel, **facts), partial(formula, **facts), inputs(shape), dtype, device, is_trained,
        is_tf32x3=True,
    )  # fmt: skip


def masked(
    device: torch.device, shape: Shape, num_masks: int, rule: Visibility, dtype: torch.dtype = torch.float32
) -> None:
    """Random block masks for all heads, for each group or for each head, one block of queries blind."""
    n = -(-shape.T // 16)
    seen = torch.rand(num_masks, n, n, generator=torch.Generator().manual_seed(n)) > 0.5
    seen[:, 1] = False
    heads = seen.repeat_interleave(shape.G * shape.R // num_masks, 0)
    pairs = heads.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : shape.T, : shape.S]
    facts: dict[str, Any] = {"rule": rule, "valid": padding(shape)}
    assert_as_accurate(
        partial(kernel, seen=seen, **facts),
        partial(formula, seen=pairs, **facts),
        inputs(shape),
        dtype,
        device,
        is_tf32x3=True,
    )


def merged(device: torch.device) -> None:
    """Attention to two halves of the keys, merged, is attention to all, and so are the gradients."""

    def halves(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        parts = (
            kernel(q, k[:, half], v[:, half], BIDIRECTIONAL, None) for half in (slice(20), slice(20, None))
        )
        return merge(*parts)

    whole = partial(formula, rule=BIDIRECTIONAL, valid=None)
    shape = Shape(1, 18, 37, 1, 1, 16, 16)
    assert_as_accurate(halves, whole, inputs(shape), torch.float32, device, is_tf32x3=True)


def split(device: torch.device, rule: Visibility, num_parts: int) -> None:
    """The parts that decode adds up do not change what it computes, also where some of them hold no keys."""
    from searchspace.kernels.attention_decode import attention_decode

    shape = Shape(2, 2, 75, 2, 2, 24, 16)
    q, k, v = (t.float() for t in inputs(shape))
    valid = padding(shape)
    expected, _ = formula(q.double(), k.double(), v.double(), rule, valid)
    q, k, v = (t.to(device) for t in (q, k, v))
    mask = valid.to(device, torch.uint8)
    y, _ = attention_decode(q, k, v, rule.causal, rule.window, rule.sinks, mask, num_parts)
    torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-5, atol=1e-6)


def refused(device: torch.device) -> None:
    q, k, v = (t.to(device) for t in inputs(Shape(1, 2, 2, 2, 1, 16, 16)))
    wide = torch.zeros(1, 2, 2, 300, device=device)
    with dispatch.use("triton"):
        for tensors, words in (
            ((q, k, v), "float16, bfloat16, float32"),
            ((wide, wide, wide), "at most 128 channels in torch.float32, got 300"),
            ((wide[:, :, :1, :16], wide[..., :16], wide[..., :16]), "2 equal groups, got 1 heads"),
        ):
            found = refusal(*tensors)
            assert words in found, f"{words!r} is not in {found!r}"


def refusal(q: Tensor, k: Tensor, v: Tensor) -> str:
    try:
        kernel(q, k, v, CAUSAL, None)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


RULES = {
    "causal": CAUSAL,
    "window 5": Visibility(True, 5),
    "window 20 and 3 sinks": Visibility(True, 20, 3),
    "window 9 and 20 sinks": Visibility(True, 9, 20),
    "window 50": Visibility(True, 50),
    "bidirectional": BIDIRECTIONAL,
    "bidirectional window 5": Visibility(False, 5),
    "bidirectional window 41 and 4 sinks": Visibility(False, 41, 4),
}
RAGGED = Shape(1, 53, 53, 1, 2, 16, 16)
OTHERS = {
    "after a cache": (Shape(1, 19, 53, 1, 1, 16, 8), Visibility(True, 24, 2)),
    "cross": (Shape(1, 40, 19, 1, 1, 16, 16), BIDIRECTIONAL),
    "wide": (Shape(2, 35, 35, 2, 1, 40, 24), Visibility(True, 20, 3)),
}
LARGE = {
    f"head {K} {name}": (Shape(2, 1000, 1000, 2, 2, K, K), rule)
    for K in (64, 128, 256)
    for name, rule in (("window 300", Visibility(True, 300, 5)), ("bidirectional", BIDIRECTIONAL))
}
LOW = (torch.bfloat16, torch.float16)

CHECKS = [
    Check(
        "attention window 20 and 3 sinks",
        partial(check, shape=RAGGED, rule=RULES["window 20 and 3 sinks"]),
    ),
    Check("attention window 5 padded", partial(check, shape=RAGGED, rule=RULES["window 5"], is_padded=True)),
    *(
        Check(
            f"attention {name}{' padded' * pad}",
            partial(check, shape=RAGGED, rule=rule, is_padded=pad),
            "slow",
        )
        for name, rule in RULES.items()
        for pad in (False, True)
        if (name, pad) not in (("window 20 and 3 sinks", False), ("window 5", True))
    ),
    *(
        Check(
            f"attention {name} {str(dtype)[6:]}", partial(check, shape=shape, rule=rule, dtype=dtype), "slow"
        )
        for name, (shape, rule) in OTHERS.items()
        for dtype in (torch.float32, *LOW)
    ),
    *(
        Check(
            f"attention {name} {str(dtype)[6:]}", partial(check, shape=shape, rule=rule, dtype=dtype), "gpu"
        )
        for name, (shape, rule) in LARGE.items()
        for dtype in ((torch.float32, *LOW) if shape.K <= 128 else LOW)  # wider ones are refused in float32
    ),
    *(
        Check(f"attention under {N} block masks", partial(masked, shape=shape, num_masks=N, rule=rule), size)
        for N, shape, rule, size in (
            (1, Shape(1, 70, 70, 1, 1, 16, 16), CAUSAL, "quick"),
            (2, Shape(1, 100, 100, 2, 2, 16, 16), Visibility(True, 50), "slow"),
            (4, Shape(2, 70, 70, 2, 2, 16, 16), BIDIRECTIONAL, "slow"),
        )
    ),
    *(
        Check(
            f"attention head {K} under block masks",
            partial(
                masked, shape=Shape(2, 500, 500, 2, 2, K, K), num_masks=2, rule=CAUSAL, dtype=torch.bfloat16
            ),
            "gpu",
        )
        for K in (64, 128, 256)
    ),
    Check("attention merged", merged),
    *(
        Check(
            f"attention decode {name}",
            partial(check, shape=Shape(2, 1, 37, 2, 2, 16, 16), rule=rule, is_padded=True, is_trained=False),
            "quick" if name == "window 9 and 20 sinks" else "slow",
        )
        for name, rule in RULES.items()
    ),
    *(
        Check(
            f"attention decode in {n} parts", partial(split, rule=RULES["window 20 and 3 sinks"], num_parts=n)
        )
        for n in (1, 3, 7)
    ),
    Check("attention refuses what it cannot do", refused),
]
