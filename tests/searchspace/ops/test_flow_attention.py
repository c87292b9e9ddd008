"""Flow attention conserves what flows."""

from typing import Any

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, build, output

DEFINING_TERM = ("competition * v", "v")
HEADS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4}


def test_every_sink_takes_in_one_and_the_sources_compete_for_as_much_as_there_are():
    """With constant values a source's share does not matter: what is left is each sink's allocation."""
    module, x = build("mixer", "flow_attention", causal=False, **HEADS), activations()
    q, k, v, _ = module.capacities(x, Tokens())
    inflow = 1 / (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True)
    outflow = 1 / (k * q.sum(1, keepdim=True)).sum(-1, keepdim=True)
    logit = (k * (q * inflow).sum(1, keepdim=True)).sum(-1, keepdim=True)
    competition = 9 * logit.clamp(max=1.0).softmax(1)
    pairs = torch.einsum("bihk,bjhk->bhij", q * inflow, k)
    torch.testing.assert_close(pairs.sum(-1), torch.ones_like(pairs[..., 0]))
    torch.testing.assert_close(competition.sum(1), torch.full_like(competition[:, 0], 9.0))
    allocation = torch.sigmoid((q * (k * outflow).sum(1, keepdim=True)).sum(-1, keepdim=True))
    o = allocation * torch.einsum("bhij,bjhv->bihv", pairs, competition * v)
    torch.testing.assert_close(output(module, x), module.merge_heads(o), rtol=1e-4, atol=1e-5)  # eps


@pytest.mark.parametrize("causal", [True, False])
def test_equal_keys_and_queries_give_every_visible_value_the_same_share(causal: bool):
    """Inflow and outflow are then those of the count alone, and each sink is allocated sigmoid(1)."""
    module, x = build("mixer", "flow_attention", causal, **HEADS), activations()
    x[..., 0] = 1.0
    for projection in (module.q_proj, module.k_proj):
        projection.weight.data.zero_()
        projection.weight.data[:, 0] = 0.5
    v = module.per_head(module.queries_keys_values(x)[2])
    counts = torch.arange(1, 10).view(1, -1, 1, 1)
    mean = v.cumsum(1) / counts if causal else v.mean(1, keepdim=True).expand_as(v)
    expected = module.merge_heads(torch.sigmoid(torch.tensor(1.0)) * mean)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-4, atol=1e-5)  # eps
