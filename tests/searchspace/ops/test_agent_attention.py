"""Agent attention: two softmaxes one after the other through a few pooled queries."""

import math

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, build, output

DEFINING_TERM = ("pool / count.clamp_min(1.0)", "pool")
GRID = Tokens(grid=(4, 6))


def test_the_weights_of_a_row_sum_to_one():
    module, x = build("mixer", "agent_attention", False, **HEADS, side=3, conv=False), activations(24)
    constant = torch.randn(8, dtype=torch.float64)
    module.v_proj.forward = lambda x: constant.expand(*x.shape[:2], -1)
    expected = module.o_proj(module.per_head(constant.view(1, 1, 2, 4)).flatten(2))
    assert_equal(output(module, x, GRID), expected.expand(2, 24, -1))


def test_a_single_agent_gives_every_token_the_same():
    """It asks with the mean of all queries."""
    module, x = build("mixer", "agent_attention", False, **HEADS, side=1, conv=False), activations(24)
    q, k, v = module.queries_keys_values(x)
    scores = torch.einsum("bhk,bjhk->bhj", q.mean(1), module.per_head(k)) / 2
    y = torch.einsum("bhj,bjhk->bhk", scores.softmax(-1), module.per_head(v)).unsqueeze(1)
    assert_equal(output(module, x, GRID), module.merge_heads(y).expand(2, 24, -1))


def test_an_agent_for_each_token_is_the_product_of_two_attentions():
    module, x = build("mixer", "agent_attention", False, **HEADS, side=4, conv=False), activations(16)
    q, k, v = (module.per_head(t) if t.shape[2] == 2 else t for t in module.queries_keys_values(x))
    read = (torch.einsum("bihk,bjhk->bhij", q, q) / math.sqrt(4)).softmax(-1)
    gather = (torch.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(4)).softmax(-1)
    y = torch.einsum("bhij,bjhk->bihk", read @ gather, v)
    assert_equal(output(module, x, Tokens(grid=(4, 4))), module.merge_heads(y))


def test_bins_are_those_of_adaptive_pooling():
    module = build("mixer", "agent_attention", False, **HEADS, side=3, conv=False)
    image = torch.randn(1, 1, 4, 7, dtype=torch.float64)
    pool = module.pool(Tokens(grid=(4, 7)), 1, image.device).double()
    means = (pool / pool.sum(-1, keepdim=True)) @ image.view(1, 28, 1)
    expected = torch.nn.functional.adaptive_avg_pool2d(image, 3)
    assert_equal(means.flatten(), expected.flatten())
