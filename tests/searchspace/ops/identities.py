"""A few lines that the identity tests of operators share: a module in float64 with random weights, and its tokens."""

from typing import Any

import torch
from torch import Tensor

from searchspace import registry
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.spec.arch import NONE, OpSpec

D = 12
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4}


def build(slot: str, op: str, causal: bool = True, **items: Any) -> Any:
    """In evaluation mode, initial weights, float64."""
    context = BuildContext(D, causal=causal, layout=Layout(64, None if causal else (8, 8)), d_next=20)
    return registry.build(slot, OpSpec.of(op, **items), context).double().eval()


def attention(causal: bool = True, **items: Any) -> Any:
    settings: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4, "window": 0, "sinks": 0}
    settings |= {"normalizer": OpSpec("softmax"), "qk_norm": NONE, "score_bias": NONE, "temperature": "none"}
    settings |= items
    return build("mixer", "softmax_attention", causal, **settings)


def activations(T: int = 9, B: int = 2) -> Tensor:
    return torch.randn(B, T, D, dtype=torch.float64)


def output(module: Any, x: Tensor, tokens: Tokens | None = None) -> Tensor:
    y: Tensor = module(x, tokens or Tokens())[0]
    return y


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
