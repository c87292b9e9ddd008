"""Timings of the recurrence and the delta rule beside torch, fused attention and flash-linear-attention."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from predictors.timing import Call
from searchspace.kernels import dispatch
from searchspace.primitives.recurrence import recurrence_chunked
from tests.gpu.benchmark import Case

# (B, T, H, K): K = V is the head dim; a CPU's dry run has TINY
SHAPES = {
    "head 128 T 2048": (8, 2048, 16, 128),
    "head 64 T 8192": (2, 8192, 16, 64),
    "head 128 T 8192": (1, 8192, 16, 128),
}
TINY = (1, 20, 1, 8)
# our decay and write rule -> module and function of flash-linear-attention in chunks, and token by token
MIXERS = {
    "scalar decay": (("simple_gla", "chunk_simple_gla"), ("simple_gla", "fused_recurrent_simple_gla")),
    "vector decay": (("gla", "chunk_gla"), ("gla", "fused_recurrent_gla")),
    "delta rule": (("delta_rule", "chunk_delta_rule"), ("delta_rule", "fused_recurrent_delta_rule")),
    "gated delta rule": (
        ("gated_delta_rule", "chunk_gated_delta_rule"),
        ("gated_delta_rule", "fused_recurrent_gated_delta_rule"),
    ),
}


def make(device: str, mixer: str, shape: tuple[int, int, int, int], phase: str) -> dict[str, Call]:
    B, T, H, K = TINY if device == "cpu" else shape
    context, T = T, 1 if phase == "decode" else T
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    torch.manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(B, T, H, *sizes, device=device, dtype=dtype)

    q, k, v = normal(K), F.normalize(normal(K), dim=-1), normal(K)
    width = {"scalar decay": 1, "gated delta rule": 1, "vector decay": K}.get(mixer, 0)
    log_a = F.logsigmoid(normal(width).float()) / 16 if width else None
    beta = normal().sigmoid() if "delta" in mixer else None
    S = torch.randn(B, H, K, K, device=device) if phase == "decode" else None
    leaves = [t.requires_grad_() for t in (q, k, v, log_a, beta) if t is not None and phase == "train"]
    cotangent = torch.randn_like(v)

    earlier = [torch.randn(B, H, context, K, device=device, dtype=dtype) for _ in range(2)]

    def timed(function: Callable[[], Any], wanted: Sequence[Tensor] = leaves) -> Call:
        """The first result, and where the phase is train the gradients of what is wanted."""

        def call() -> Any:
            with torch.set_grad_enabled(phase == "train"):
                o = function()[0].reshape(v.shape)
                return torch.autograd.grad(o, wanted, cotangent) if wanted else o

        return call

    def own(implementation: str) -> Any:
        with dispatch.use(implementation):
            return recurrence_chunked(q.unsqueeze(3), k, v, log_a, S, beta=beta)

    def attention() -> Any:
        """Of the same heads, without decay: causal over the sequence, or of one token over the context."""
        if phase == "decode":
            return (
                F.scaled_dot_product_attention(q.transpose(1, 2), earlier[0], earlier[1]).transpose(1, 2),
            )
        query, key, value = (t.transpose(1, 2) for t in (q, k, v))
        return (F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2),)

    found = {"triton": timed(partial(own, "triton")), "torch": timed(partial(own, "torch"))}
    if phase == "decode" and device == "cuda":
        found["compiled"] = timed(torch.compile(partial(own, "torch")))
    found["attention"] = timed(attention, leaves[:3])
    other = _flash_linear_attention(*MIXERS[mixer][phase == "decode"]) if device == "cuda" else None
    if other is not None:
        more = {"beta": beta} if beta is not None else {}
        if log_a is not None:
            gates = log_a if width > 1 else log_a.squeeze(-1)
            more["gk" if phase == "decode" and width > 1 else "g"] = gates
        state = {"initial_state": S, "output_final_state": True}
        found["fla"] = timed(lambda: other(q=q, k=k, v=v, scale=1.0, **more, **state))
    return found


def _flash_linear_attention(module: str, function: str) -> Callable[..., Any] | None:
    """None where the package isn't there."""
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(f"fla.ops.{module}"), function)
    except ImportError:
        return None
    return found


CASES = tuple(
    Case(f"{mixer} {name}", phase, partial(make, mixer=mixer, shape=shape, phase=phase))
    for name, shape in SHAPES.items()
    for mixer in MIXERS
    for phase in ("forward", "train", "decode")
)
