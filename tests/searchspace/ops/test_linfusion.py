"""LinFusion's attention does not depend on the resolution."""

from typing import Any

import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("k / n", "k")
HEADS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4}


def test_every_token_twice_changes_nothing():
    module, x = build("mixer", "linfusion", causal=False, **HEADS, mlp_width=8), activations()
    assert_equal(output(module, x.repeat(1, 2, 1))[:, :9], output(module, x))


def test_without_the_mlp_it_is_linear_attention():
    module, x = build("mixer", "linfusion", causal=False, **HEADS, mlp_width=0), activations()
    plain = build("mixer", "linear_attention", False, **HEADS, feature_map=OpSpec("elu_plus_one"))
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(output(module, x), output(plain, x), rtol=1e-3, atol=1e-4)  # eps


def test_the_mlp_is_added_to_what_queries_and_keys_are_made_of():
    with_mlp, x = build("mixer", "linfusion", causal=False, **HEADS, mlp_width=8), activations()
    without = build("mixer", "linfusion", causal=False, **HEADS, mlp_width=0)
    without.load_state_dict({n: t for n, t in with_mlp.state_dict().items() if "mlp" not in n})
    assert not torch.allclose(output(with_mlp, x), output(without, x))
    for mlp in (with_mlp.q_mlp, with_mlp.k_mlp):
        mlp.down_proj.weight.data.zero_()
    assert_equal(output(with_mlp, x), output(without, x))
