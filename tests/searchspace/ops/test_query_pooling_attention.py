"""Attention with queries pooled over the last tokens."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, attention, build, output

DEFINING_TERM = ("short.lerp(long, self.share)", "short")


def mixer(query_window: int, share: float) -> Any:
    items: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4}
    items |= {"query_window": query_window, "share": share}
    return build("mixer", "query_pooling_attention", **items)


def test_a_window_of_one_token_or_no_share_is_attention():
    plain, x = attention(), activations()
    for module in (mixer(1, 0.5), mixer(5, 0.0)):
        module.load_state_dict(plain.state_dict())
        assert_equal(output(module, x), output(plain, x))


def test_equal_queries_pool_to_themselves():
    """The mean of the same query is that query, also where there are fewer tokens than the window."""
    plain, module, x = attention(), mixer(5, 1.0), activations()
    x = torch.cat((torch.ones_like(x[..., :1]), x[..., 1:]), -1)
    plain.q_proj.weight.data[:, 1:] = 0.0
    module.load_state_dict(plain.state_dict())
    assert_equal(output(module, x), output(plain, x))


def test_pooled_queries_are_means_of_the_real_tokens_in_the_window():
    module, q = mixer(3, 1.0), torch.randn(1, 6, 4, 4, dtype=torch.float64)
    real = torch.tensor([1.0, 1, 0, 1, 1, 1], dtype=torch.float64).view(1, 6, 1)
    pooled = module.pooled(q * real.unsqueeze(-1), real, 6)[0]
    for t, near in enumerate(([0], [0, 1], [0, 1], [1, 3], [3, 4], [3, 4, 5])):
        assert_equal(pooled[t], q[0, near].mean(0))


def test_a_later_token_changes_no_pooled_query():
    module, x = mixer(5, 1.0), activations()
    before = module(x, Tokens())[0]
    x[:, 6] += 1.0
    assert_equal(module(x, Tokens())[0][:, :6], before[:, :6])
