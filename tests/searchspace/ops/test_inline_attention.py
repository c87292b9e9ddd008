"""InLine attention: rows sum to 1, and different queries have different rows."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("towards_mean = 1 - scale *", "towards_mean = 1 + scale *")
HEADS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4}


def test_a_shift_of_all_values_shifts_the_output_by_as_much():
    module, x = (
        build("mixer", "inline_attention", False, **HEADS, features="identity", kernel_size=0),
        activations(),
    )
    x[..., 0] = 1.0
    before = output(module, x)
    module.v_proj.weight.data[:, 0] += 3.0
    shift = module.merge_heads(torch.full((1, 1, 2, 4), 3.0, dtype=torch.float64))
    assert_equal(output(module, x), before + shift)


def test_queries_of_the_same_direction_but_other_length_give_other_outputs():
    """Dividing by the sum of weights would make them equal."""
    module, x = (
        build("mixer", "inline_attention", False, **HEADS, features="relu", kernel_size=0),
        activations(),
    )
    before = output(module, x)
    module.q_proj.weight.data.mul_(2.0)
    mean = module.merge_heads(module.per_head(module.queries_keys_values(x)[2]).mean(1, keepdim=True))
    assert_equal(output(module, x) - mean, 2 * (before - mean))


def test_the_residual_is_a_convolution_made_for_the_image():
    module, x = (
        build("mixer", "inline_attention", False, **HEADS, features="relu", kernel_size=3),
        activations(),
    )
    image = Tokens(grid=(3, 3))
    with_residual = output(module, x, image)
    module.kernel_expand.data.zero_()
    without = output(module, x, image)
    plain = build("mixer", "inline_attention", False, **HEADS, features="relu", kernel_size=0)
    plain.load_state_dict({n: t for n, t in module.state_dict().items() if "kernel" not in n})
    assert_equal(without, output(plain, x))
    assert (with_residual - without).abs().max() > 1e-3
