"""Timings of attention with a window beside torch's fused attention at the window's cost and flex attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from predictors.timing import Call
from searchspace.kernels import dispatch
from searchspace.primitives.scores import Visibility
from tests.gpu.benchmark import Case
from tests.gpu.comparisons import normal, timed, under

SHAPES = {  # B, T, G, R, K, window, sinks
    "head 64 window 256": (4, 4096, 16, 1, 64, 256, 0),
    "head 64 window 1024": (2, 8192, 16, 1, 64, 1024, 4),
    "head 128 window 1024": (2, 8192, 4, 4, 128, 1024, 4),
    "head 128 window 4096": (1, 16384, 4, 4, 128, 4096, 0),
}
TINY = (1, 32, 1, 2, 16, 8, 2)


def kernel(q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int) -> Tensor:
    run = dispatch.kernel("attention", q.device, q)
    assert run is not None
    y: Tensor = run(q, k, v, True, window, sinks)[0]
    return y


def fused(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    """Full causal attention on pieces of this length."""
    q, k, v = (t.unflatten(1, (-1, length)).flatten(0, 1).transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return y.transpose(1, 2)


def prefill(device: str, shape: tuple[int, ...], phase: str) -> dict[str, Call]:
    """Causal pieces of 2 w tokens have as many pairs as a window of w, so fused attention on them costs what it would
    cost with a window."""
    B, T, G, R, K, window, sinks = TINY if device == "cpu" else shape
    is_trained = phase == "train"
    sizes = (B, T, G * R, K), (B, T, G, K), (B, T, G, K)
    inputs = [normal(device, *size, is_trained=is_trained) for size in sizes]
    found = {
        "triton": timed(under("triton", partial(kernel, window=window, sinks=sinks)), inputs, phase),
        "torch at the window's cost": timed(partial(fused, length=2 * window), inputs, phase),
        "torch without a window": timed(partial(fused, length=T), inputs, phase),
    }
    if device == "cuda":
        found["flex"] = timed(_flex(T, window, sinks, R), inputs, phase)
    return found


def _flex(T: int, window: int, sinks: int, R: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & ((i - j < window) | (j < sinks))

    mask = create_block_mask(seen, None, None, T, T, device="cuda")
    run = torch.compile(partial(flex_attention, block_mask=mask, enable_gqa=R > 1))

    def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y: Tensor = run(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return y

    return flex


def decode(device: str, B: int, S: int, G: int, R: int, K: int) -> dict[str, Call]:
    """One token on a cache of S keys, of which all are seen."""
    B, S, G, R, K = (1, 40, 1, 2, 16) if device == "cpu" else (B, S, G, R, K)
    inputs = [normal(device, *size) for size in ((B, 1, G * R, K), (B, S, G, K), (B, S, G, K))]

    def torch_decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=R > 1)

    return {
        "triton": timed(under("triton", partial(kernel, window=0, sinks=0)), inputs, "decode"),
        "torch": timed(torch_decode, inputs, "decode"),
    }


def as_operator(device: str) -> dict[str, Call]:
    """What the operator runs without a kernel: torch's fused attention under a mask."""
    B, T, G, R, K, window, sinks = TINY if device == "cpu" else SHAPES["head 64 window 256"]
    inputs = [normal(device, B, T, G * R, K) for _ in range(3)]
    places = torch.arange(T, device=device)
    mask = Visibility(True, window, sinks).mask(places, places)

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return {
        "triton": timed(under("triton", partial(kernel, window=window, sinks=sinks)), inputs, "forward"),
        "torch under a mask": timed(masked, inputs, "forward"),
    }


CASES = (
    *(
        Case(f"attention {name}", phase, partial(prefill, shape=shape, phase=phase))
        for name, shape in SHAPES.items()
        for phase in ("forward", "train")
    ),
    Case("attention B 1 S 32768", "decode", partial(decode, B=1, S=32768, G=8, R=4, K=128)),
    Case("attention B 32 S 4096", "decode", partial(decode, B=32, S=4096, G=8, R=4, K=128)),
    Case("attention as the operator", "forward", as_operator),
)
