"""Norm linear attention: the size of what is summed does not matter."""

from typing import Any

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, build

DEFINING_TERM = ("self.merge_heads(self.normalize(o.flatten(2, 3)))", "self.merge_heads(o.flatten(2, 3))")


def mixed(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What the output projection is given [B, T, H, V]."""
    found = []
    handle = module.o_proj.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        module(x, Tokens())
    handle.remove()
    return found[0].unflatten(-1, (module.H, -1))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("norm_over", "axes"), [("all", (-2, -1)), ("head", -1)])
def test_what_is_mixed_has_mean_square_one(causal: bool, norm_over: str, axes: Any):
    module = build("mixer", "norm_linear", causal, **HEADS, features="elu_plus_one", norm_over=norm_over)
    size = mixed(module, activations()).square().mean(axes)
    torch.testing.assert_close(size, torch.ones_like(size), rtol=1e-3, atol=1e-3)  # eps


def test_the_scale_of_the_values_changes_nothing():
    module, x = build("mixer", "norm_linear", **HEADS, features="silu", norm_over="all"), 5 * activations()
    before = mixed(module, x)
    module.v_proj.weight.data.mul_(100.0)
    torch.testing.assert_close(mixed(module, x), before, rtol=1e-2, atol=1e-2)  # eps
