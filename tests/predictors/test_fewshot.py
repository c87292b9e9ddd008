"""Few-shot fits on laws that are known, with gross errors among the samples, and with a source to start from."""

import numpy as np
import pytest

from predictors import fewshot
from predictors.fewshot import Features, Source, fit


def random_features(rng, count):
    sizes = rng.uniform(1, 8, (count, 4))
    return Features(sizes, np.log(sizes))


@pytest.mark.parametrize("law", ["sum", "product"])
@pytest.mark.parametrize("gross", [0, 3])
def test_a_law_of_either_form_is_found_whatever_a_few_samples_say(law, gross):
    rng = np.random.default_rng(0)

    def truth(f):
        return (
            2 + f.terms @ [1.0, 0.5, 0.0, 2.0]
            if law == "sum"
            else np.exp(1 + f.factors @ [1.0, 0.5, 0.0, 0.25])
        )

    known, unseen = random_features(rng, 24), random_features(rng, 200)
    ms = truth(known)
    ms[:gross] *= 1.4
    found = fit(known, ms).log_ms(unseen, {})
    assert np.median(np.abs(np.exp(found) / truth(unseen) - 1)) < 0.005


def test_a_source_that_knows_the_law_up_to_a_factor_is_preferred_to_one_that_does_not():
    rng = np.random.default_rng(1)
    known, unseen = random_features(rng, 10), random_features(rng, 100)

    def sources(f):
        curved = np.sin(f.terms).sum(1)  # nothing in the features says this
        nothing = np.zeros(len(curved))
        return curved, {"knows": Source(curved, nothing), "other": Source(nothing, nothing)}

    (truth, given), (unseen_truth, unseen_given) = sources(known), sources(unseen)
    found = fit(known, 3 * np.exp(truth), given)
    assert found.sources[0] == "knows"
    predicted = found.log_ms(unseen, unseen_given)
    assert np.median(np.abs(predicted - np.log(3) - unseen_truth)) < 0.01


def test_the_left_out_errors_are_those_of_fits_without_each_sample(monkeypatch):
    monkeypatch.setattr(fewshot, "PENALTIES", (0.1,))
    rng = np.random.default_rng(2)
    Z, target, free = rng.normal(size=(12, 3)), rng.normal(size=12), np.ones(12)
    _, left_out, _ = fewshot._solve(Z, free, target, 0)
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        dual, _, _ = fewshot._solve(Z[rest], free[rest], target[rest], 0)
        predicted = Z[i] @ (Z[rest].T @ dual[0] / 0.1) + fewshot.FREE * dual.sum()
        assert left_out[0, i] == pytest.approx(target[i] - predicted, rel=1e-6)
