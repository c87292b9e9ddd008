"""A max-pooling mixer takes the largest of each hidden unit nearby."""

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("F.max_pool1d(seen", "F.avg_pool1d(seen")


def test_a_window_of_one_is_a_plain_network_of_two_layers():
    x = activations(20)
    for causal in (True, False):
        module = build("mixer", "maxpool_eff", causal, window=1, expansion=2)
        hidden = F.gelu(F.gelu(x @ module.pool_up.weight.T, approximate="tanh"), approximate="tanh")
        assert_equal(output(module, x, Tokens(grid=(4, 5))), hidden @ module.pool_down.weight.T)


def test_repeating_a_token_changes_nothing():
    module, x = build("mixer", "maxpool_eff", window=5, expansion=1), activations(1).expand(2, 9, 12)
    y = output(module, x)
    assert_equal(y, y[:, :1].expand_as(y))


def test_the_order_within_the_window_does_not_matter():
    module, x = build("mixer", "maxpool_eff", window=3, expansion=2), activations(9)
    shuffled = x.clone()
    shuffled[:, 6:9] = x[:, [8, 6, 7]]
    assert_equal(output(module, shuffled)[:, 8], output(module, x)[:, 8])
    assert not torch.allclose(output(module, shuffled)[:, 7], output(module, x)[:, 7])
