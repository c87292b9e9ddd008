"""LayerNorm over each query's scores."""

import pytest
import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ('torch.relu(weights) if self.order == "ln_relu" else weights', "weights")
VISIBLE = torch.ones(6, 6, dtype=torch.bool).tril()


@pytest.mark.parametrize("order", ["ln", "relu_ln", "ln_relu"])
def test_keys_may_change_places(order: str):
    norm, scores, places = (
        build("normalizer", "key_norm", order=order),
        torch.randn(2, 3, 6, 6),
        torch.randperm(6),
    )
    scores = scores.double()
    assert_equal(norm(scores[..., places], VISIBLE[:, places]), norm(scores, VISIBLE)[..., places])


def test_the_layernorm_form_is_normalised_attention_where_scores_vary_much():
    """Both epsilons then vanish beside the deviation."""
    scores = 1e6 * torch.randn(2, 3, 6, 6).double()
    ln, nap = build("normalizer", "key_norm", order="ln"), build("normalizer", "nap")
    torch.testing.assert_close(ln(scores, VISIBLE), nap(scores, VISIBLE), rtol=1e-7, atol=1e-7)


def test_a_relu_behind_the_norm_keeps_what_is_above_the_mean_and_one_before_it_does_not_see_the_negative():
    scores = torch.randn(2, 3, 6, 6).double()
    everything = torch.ones(6, 6, dtype=torch.bool)
    ln, behind, before = (build("normalizer", "key_norm", order=o) for o in ("ln", "ln_relu", "relu_ln"))
    assert_equal(behind(scores, everything), ln(scores, everything).clamp_min(0))
    assert ((behind(scores, everything) > 0) == (scores > scores.mean(-1, keepdim=True))).all()
    assert_equal(before(scores, everything), ln(scores.clamp_min(0), everything))
