"""Kernelized attention with relative positions, by Fourier transform and by pairs."""

from typing import Any

import pytest
import torch

from searchspace.primitives.toeplitz import toeplitz_product
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, build, output

DEFINING_TERM = ("positive_random_features(unit(t), self.N)", "positive_random_features(t, self.N)")
SETTINGS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4}


@pytest.mark.parametrize("T", [1, 2, 7])
def test_a_toeplitz_product_is_that_of_the_matrix(T: int):
    c, u = torch.randn(3, 2 * T - 1, dtype=torch.float64), torch.randn(3, T, dtype=torch.float64)
    matrix = torch.stack([c[:, T - 1 - i : 2 * T - 1 - i] for i in range(T)], 1)
    torch.testing.assert_close(toeplitz_product(c, u), (matrix @ u.unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize("causal", [True, False])
def test_without_biases_it_is_linear_attention_on_random_features(causal: bool):
    module, x = build("mixer", "nprf", causal, **SETTINGS, num_features=16), activations()
    prf = OpSpec.of("prf", num_features=16, unit_norm=True)
    plain = build("mixer", "linear_attention", causal, **SETTINGS, feature_map=prf)
    plain.load_state_dict({n: t for n, t in module.state_dict().items() if "bias" not in n})
    for name in ("bias_past", "bias_future"):
        if name in module.declared:
            getattr(module, name).data.fill_(3.0)  # the same at every distance
    torch.testing.assert_close(output(module, x), output(plain, x), rtol=1e-4, atol=1e-5)  # eps


@pytest.mark.parametrize(("name", "offset"), [("bias_past", -2), ("bias_future", 2)])
def test_a_large_bias_picks_the_token_at_its_distance(name: str, offset: int):
    module, x = build("mixer", "nprf", False, **SETTINGS, num_features=16), activations()
    getattr(module, name).data[:, 2] = 30.0
    y, v = output(module, x), module.per_head(module.queries_keys_values(x)[2])
    for i in range(9):
        if 0 <= i + offset < 9:
            expected = module.merge_heads(v[:, i + offset].unsqueeze(1))[:, 0]
            torch.testing.assert_close(y[:, i], expected, rtol=1e-4, atol=1e-4)
