"""TransNormerLLM's mixer: relative positions by learned angles, and heads that a norm couples or not."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = (
    "k = torch.cat((k * cos, k * sin), -1)",
    "k = torch.cat((k * cos, -k * sin), -1)",
    "searchspace/primitives/fixed_decay.py",
)
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 1, "head_dim": 4}


def test_angles_of_zero_are_no_positions():
    x, turned = activations(20), build("mixer", "tnl", **HEADS, norm="all", lrpe=True)
    plain = build("mixer", "tnl", **HEADS, norm="all", lrpe=False)
    torch.nn.init.zeros_(turned.lrpe_theta)
    plain.load_state_dict({n: t for n, t in turned.state_dict().items() if n != "lrpe_theta"})
    assert_equal(output(turned, x), output(plain, x))


def test_only_the_distance_between_positions_matters():
    module, x = build("mixer", "tnl", **HEADS, norm="head", lrpe=True), activations(20)
    here, far = (output(module, x, Tokens(positions=torch.arange(20) + shift)) for shift in (0, 1000))
    torch.testing.assert_close(far, here, rtol=1e-9, atol=1e-9)


def test_a_score_is_a_sum_of_cosines_of_the_distance():
    module, x = build("mixer", "tnl", **HEADS, norm="head", lrpe=True), activations(7)
    q, k, _, _ = module.decayed(x, Tokens())
    plain_q, plain_k, _ = module.queries_keys_values(x)
    plain_q, plain_k = torch.nn.functional.silu(plain_q), torch.nn.functional.silu(plain_k)
    cosines = (4 * module.lrpe_theta.view(2, 4)).cos()
    assert_equal((q[:, 6, :, 0] * k[:, 2]).sum(-1), (plain_q[:, 6] * plain_k[:, 2] * cosines).sum(-1))


def test_with_a_norm_per_head_a_head_does_not_change_the_others():
    for norm, coupled in (("head", False), ("all", True)):
        module, x = build("mixer", "tnl", **HEADS, norm=norm, lrpe=False), activations()
        torch.nn.init.zeros_(module.o_proj.weight[:, 4:])  # only the first head is seen
        before = output(module, x)
        with torch.no_grad():
            module.v_proj.weight[4:] *= 3
        assert torch.equal(output(module, x), before) != coupled
