"""Scores of correlations, activation patterns, attention and trajectories against limits and brute force."""

import math

import pytest
import torch

from proxies.activation_distance import activation_distance
from proxies.batch import Batch
from proxies.correlation import EPS, correlation, cosines, spectrum_score
from proxies.jacobian_cosine import cosine_score
from proxies.naswot import agreement
from proxies.optin_trajectory import manifold_distance
from proxies.registry import score, score_subject
from proxies.subject import Subject, Unscorable
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from tests.proxies.conftest import ATTENTION, MAX_LEN, decoder, linear_classifier

N = 4
MLP = OpSpec.of("mlp", d_ff=12, activation=OpSpec("gelu"))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_rows_that_do_not_correlate_score_minus_their_number():
    rows = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    expected = -3 * (math.log(1 + EPS) + 1 / (1 + EPS))
    assert spectrum_score(correlation(rows)) == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(-3, rel=1e-6)
    assert cosine_score(rows) == 1


def test_equal_rows_score_the_limit_and_have_no_null_direction_once_dropped():
    rows = drawn(1, 9).expand(N, 9)
    one = math.log(N + EPS) + 1 / (N + EPS)
    matrix = correlation(rows)
    assert spectrum_score(matrix) == pytest.approx(-one - (N - 1) * (math.log(EPS) + 1 / EPS), rel=1e-6)
    assert spectrum_score(matrix, drop_null=True) == pytest.approx(-one, rel=1e-6)
    assert cosine_score(rows) == pytest.approx(0.5)


def test_rows_without_variance_are_left_out():
    rows = torch.cat((drawn(2, 9), torch.full((1, 9), 3.0)))
    assert torch.equal(correlation(rows), correlation(rows[:2]))
    with pytest.raises(Unscorable, match="fewer than two rows vary"):
        correlation(rows[1:])
    with pytest.raises(Unscorable, match="fewer than two rows are not zero"):
        cosines(rows[:1])


def test_agreement_counts_equal_units():
    codes = (drawn(N, 20) > 0).float()
    expected = [[(a == b).sum().item() for b in codes] for a in codes]
    assert agreement(codes).tolist() == expected


def test_activation_distance_of_one_token_is_the_number_of_units():
    block = BlockSpec(NONE, MLP, OpSpec("layernorm"))
    arch = ArchSpec(
        task="classification",
        stem=OpSpec.of("patch_embedding", image_size=4, patch_size=4, channels=1),
        d_model=6,
        blocks=(block,) * 3,
        stages=(StageSpec(3, 6),),
        head=OpSpec.of("classifier", num_classes=3),
    )
    batch = Batch(drawn(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64))
    assert activation_distance(Subject(arch, batch, seed=0)) == 3 * 12


def zeroed(subject: Subject, *parts: str) -> Subject:
    with torch.no_grad():
        for name, weight in subject.model.named_parameters():
            if any(part in name for part in parts):
                weight.zero_()
    return subject


@pytest.mark.parametrize("window", [0, 2])
def test_softmax_confidence_of_equal_scores_is_one_over_the_keys_seen(batch, window):
    mixer = OpSpec.of(ATTENTION.op, **dict(ATTENTION.items) | {"window": window})
    subject = zeroed(Subject(decoder(mixer=mixer), batch, seed=0), "q_proj")
    seen = [min(i + 1, window or MAX_LEN) for i in range(MAX_LEN)]
    expected = 2 * sum(1 / n for n in seen) / MAX_LEN
    assert score_subject(["softmax_confidence"], subject)["softmax_confidence"].value == pytest.approx(
        expected
    )


def test_a_network_without_mixers_says_what_is_missing(batch):
    names = ("softmax_confidence", "head_confidence", "head_importance", "synaptic_diversity")
    found = score(names, decoder(mixer=NONE), batch, seed=0)
    missing = (
        "no attention maps",
        "no mixer",
        "no mixer has a weight matrix",
        "no mixer has a weight matrix",
    )
    assert tuple(found[name].reason for name in names) == missing


def test_head_confidence_of_silent_projections_is_0(batch):
    subject = zeroed(Subject(decoder(), batch, seed=0), "mixer.")
    assert score_subject(["head_confidence"], subject)["head_confidence"].value == 0


def test_a_block_that_adds_nothing_leaves_the_trajectory_as_it_is(batch):
    subject = zeroed(Subject(decoder(), batch, seed=0), "o_proj", "down_proj")
    assert score_subject(["optin_trajectory"], subject)["optin_trajectory"].value == 0


def test_the_manifold_distance_is_that_of_the_gram_matrices():
    x, other = drawn(2, 5, 3), drawn(4, 5, 3)[2:]
    grams = [torch.nn.functional.normalize(t.flatten(0, 1), dim=-1) for t in (x, other)]
    expected = (grams[0] @ grams[0].mT - grams[1] @ grams[1].mT).square().mean().item()
    assert manifold_distance(x, other) == pytest.approx(expected, rel=1e-4)


def test_a_network_without_blocks_has_reasons_not_errors(batch):
    arch = linear_classifier()
    images = Batch(drawn(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64))
    found = score(("fisher", "naswot", "hidden_covariance", "optin_trajectory"), arch, images, seed=0)
    assert [s.reason for s in found.values()] == [
        "no mixer and no ffn",
        "no mixer and no ffn",
        "no blocks",
        "no blocks",
    ]
