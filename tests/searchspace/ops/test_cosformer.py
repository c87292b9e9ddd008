"""cosFormer's cosine favours near tokens."""

import math
from typing import Any

import pytest
import torch

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("math.pi / 2 / self.max_len", "math.pi / 3 / self.max_len")
HEADS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 1, "head_dim": 4}


@pytest.mark.parametrize("causal", [True, False])
def test_with_equal_queries_and_keys_the_weights_are_cosines_of_distances(causal: bool):
    module, x = build("mixer", "cosformer", causal, **HEADS), activations()
    x[..., 0] = 1.0
    for projection in (module.q_proj, module.k_proj):
        projection.weight.data.zero_()
        projection.weight.data[:, 0] = 1.0
    v, rows = module.v_proj(x), []
    for i in range(9):
        sees = torch.arange(i + 1 if causal else 9)
        w = torch.cos(math.pi * (i - sees) / (2 * 64)).double().view(1, -1, 1)
        rows.append((w * v[:, sees]).sum(1) / w.sum())
    torch.testing.assert_close(output(module, x), module.o_proj(torch.stack(rows, 1)), rtol=1e-6, atol=1e-6)


def test_a_row_without_weights_is_zero():
    module, x = build("mixer", "cosformer", **HEADS), activations()
    module.q_proj.weight.data.zero_()
    assert_equal(output(module, x), torch.zeros_like(x))
