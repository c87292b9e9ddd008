"""ReLU attention with the scale that keeps the output's size."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("(num_visible(scores, visible) / 2)", "num_visible(scores, visible)")


def test_the_output_varies_as_the_values_do_at_every_length():
    """E[relu(s)^2] = 1/2; 4000 rows, so a standard error of a few hundredths."""
    torch.manual_seed(0)
    for n in (16, 256):
        scores, values = torch.randn(1, 1, 4000, n).double(), torch.randn(n, 32).double()
        y = build("normalizer", "scaled_relu")(scores, torch.ones(1, n, dtype=torch.bool)) @ values
        assert 0.8 < y.var() / values.square().mean() < 1.2


def test_it_is_a_network_of_one_hidden_layer_with_the_keys_and_values_as_weights():
    q, k, v = torch.randn(3, 8, 4).double()
    weights = build("normalizer", "scaled_relu")((q @ k.T)[None, None], torch.ones(8, 8, dtype=torch.bool))
    assert_equal(weights[0, 0] @ v, torch.relu(torch.nn.functional.linear(q, k)) @ v / 2)


def test_a_hidden_key_changes_nothing():
    relu, scores = build("normalizer", "scaled_relu"), torch.randn(1, 1, 3, 6).double()
    visible = torch.ones(3, 6, dtype=torch.bool)
    visible[:, 4:] = False
    assert_equal(relu(scores, visible)[..., :4], relu(scores[..., :4], visible[:, :4]))
