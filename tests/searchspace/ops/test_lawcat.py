"""LAWCAT: convex weights, and plain linear attention where nothing fades and nothing is mixed."""

from typing import Any

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = (
    "y = self.o_proj((o[..., :-1] / (o[..., -1:] + EPS)).flatten(2))",
    "y = self.o_proj(o[..., :-1].flatten(2))",
)
FEATURES = OpSpec.of("elu_plus_one")
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4, "feature_map": FEATURES}


def lawcat(tau: int = 8) -> Any:
    return build("mixer", "lawcat", **HEADS, conv_taps=4, tau=tau)


def test_at_the_start_without_fading_it_is_linear_attention():
    module, plain, x = lawcat(), build("mixer", "linear_attention", **HEADS), activations(30)
    plain.load_state_dict({n: t for n, t in module.state_dict().items() if n in plain.state_dict()})
    torch.nn.init.constant_(module.feature_decay_bias, 1e4)
    assert_equal(output(module, x), output(plain, x))


def test_weights_sum_to_one_whatever_fades():
    module, x = lawcat(tau=1), activations(30)
    with torch.no_grad():
        module.q_conv.weight.add_(torch.randn_like(module.q_conv.weight))
        module.v_proj.weight.zero_()
        module.v_proj.weight[:, 0] = torch.arange(8.0)
    x[..., 0] = 1.0
    expected = module.o_proj(torch.arange(8.0, dtype=torch.float64).view(2, 1, 4).expand(2, 2, 4).flatten())
    torch.testing.assert_close(output(module, x), expected.expand(2, 30, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tau", [1, 16])
def test_a_gate_of_one_half_halves_a_weight_in_tau_steps(tau: int):
    module, x = lawcat(tau), activations(30)
    for part in ("reduce", "bias"):
        torch.nn.init.zeros_(getattr(module, f"feature_decay_{part}"))
    q, k = module.q_proj(x), module.k_proj(x)
    log_a = module.features(q, k, x, Tokens())[3]
    assert_equal((tau * log_a).exp(), torch.full_like(log_a, 0.5))
