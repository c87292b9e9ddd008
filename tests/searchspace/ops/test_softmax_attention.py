"""Softmax attention: windows, sinks and groups are settings of one formula."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.scores import Visibility
from tests.searchspace.ops.identities import activations, assert_equal, attention, output


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_as_long_as_the_sequence_is_full_attention(causal: bool):
    full, x = attention(causal), activations(9)
    windowed = attention(causal, window=9 if causal else 18)
    windowed.load_state_dict(full.state_dict())
    assert_equal(output(windowed, x), output(full, x))


def test_grouped_queries_are_multi_head_attention_with_repeated_keys_and_values():
    grouped, x = attention(num_groups=2, heads_per_group=2), activations()
    heads = attention(num_groups=4, heads_per_group=1)
    weights = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        weights[name] = weights[name].view(2, 1, 4, -1).expand(2, 2, 4, -1).reshape(16, -1)
    heads.load_state_dict(weights)
    assert_equal(output(heads, x), output(grouped, x))


def test_one_group_has_one_key_and_value_head():
    multi_query = attention(num_groups=1, heads_per_group=4)
    assert multi_query.k_proj.weight.shape[0] == multi_query.v_proj.weight.shape[0] == 4
    assert multi_query.q_proj.weight.shape[0] == 16


def test_constant_values_come_out_whatever_the_scores():
    """Rows of weights sum to 1."""
    module, x = attention(), activations()
    with torch.no_grad():
        module.v_proj.weight.zero_()
        module.v_proj.weight[:, 0] = torch.arange(8.0)
    x[..., 0] = 1.0
    expected = module.per_head(torch.arange(8.0, dtype=torch.float64).view(1, 1, 2, 4)).flatten()
    assert_equal(output(module, x), module.o_proj(expected).expand(2, 9, -1))


def test_a_token_outside_the_window_is_seen_only_as_a_sink():
    x = activations(9)
    for sinks, is_seen in ((0, False), (1, True)):
        module, y = attention(window=3, sinks=sinks), x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(output(module, y)[:, 8].sum(), y)
        assert bool(gradient[:, 0].any()) is is_seen
        assert not gradient[:, 1:6].any()
        assert gradient[:, 6:].any(-1).all()


@pytest.mark.parametrize(
    "rule", [Visibility(True, 3, 2), Visibility(True, 4), Visibility(False, 5), Visibility(True)]
)
def test_visible_keys_are_those_of_the_rule_one_by_one(rule: Visibility):
    places = torch.arange(8)
    found = rule.mask(places, places)
    for i in range(8):
        for j in range(8):
            near = not rule.window or (i - j < rule.window if rule.causal else abs(i - j) <= rule.window // 2)
            assert bool(found[i, j]) == ((near or j < rule.sinks) and (j <= i or not rule.causal))


def test_a_row_that_sees_nothing_is_zero():
    x, valid = activations(4), torch.tensor([[False, False, True, True]] * 2)
    assert not output(attention(), x, Tokens(valid=valid))[:, :2].any()
