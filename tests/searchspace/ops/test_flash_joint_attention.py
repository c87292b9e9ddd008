"""Joint attention: a gated attention unit inside a group, a block-lower product between groups."""

import pytest
import torch

from searchspace.ops.attention.flash_joint_attention import laplace
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = (
    "torch.cat((first, first + own.cumsum(1)), 1)",
    "torch.cat((first + own.sum(1, keepdim=True), first + own.cumsum(1)), 1)",
)


def joint(causal: bool, **items):
    settings = {"head_dim": 8, "expansion": 2, "group": 4, "shift": False, "weighting": "laplace"}
    module = build("mixer", "flash_joint_attention", causal, **(settings | items))
    with torch.no_grad():
        module.copy_scale.normal_()
    return module


def test_one_group_without_the_global_part_is_a_gated_attention_unit():
    module, x = joint(False, group=16, weighting="relu_squared"), activations(9)
    with torch.no_grad():
        module.copy_scale[3] = 0.0
    silu = torch.nn.functional.silu
    h, v, u = silu(module.shared_proj(x)), silu(module.up_proj(x)), silu(module.joint_gate_proj(x))
    q, k = h * module.copy_scale[0], h * module.copy_scale[1]
    A = torch.relu(q @ k.mT / 16).square()
    expected = module.down_proj((A @ u) * v * torch.sigmoid((A @ v) * u))
    assert_equal(output(module, x), expected)


def test_the_causal_global_part_is_a_strictly_block_lower_product():
    module, x = joint(True, group=4), activations(15)
    q1, k1, q2, k2, V, _ = module.copies_and_values(x, Tokens(), torch.zeros(2, 1, D // 2, dtype=x.dtype))
    group = torch.arange(15) // 4
    A = laplace(q1 @ k1.mT) * (group.unsqueeze(1) == group).tril()
    A = A + q2 @ k2.mT * (group.unsqueeze(1) > group) / 4
    assert_equal(output(module, x), module.gated(A @ V, V))


def test_shift_brings_half_of_the_channels_one_token_late():
    module, plain, x = joint(True, shift=True), joint(True), activations(9)
    plain.load_state_dict(module.state_dict())
    late = torch.cat((torch.zeros(2, 1, D // 2, dtype=x.dtype), x[:, :-1, : D // 2]), 1)
    assert_equal(output(module, x), output(plain, torch.cat((late, x[..., D // 2 :]), 2)))


def test_laplace_is_the_gaussian_distribution_function_that_follows_squared_relu():
    """Mean sqrt(1 / 2) and variance 1 / (4 pi) make value and slope those of s^2 at the mean."""
    s = torch.tensor(0.5, dtype=torch.float64).sqrt().requires_grad_()
    (slope,) = torch.autograd.grad(laplace(s), s)
    assert laplace(s).item() == pytest.approx(s.item() ** 2)
    assert slope.item() == pytest.approx(2 * s.item())
