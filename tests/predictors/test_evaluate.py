"""An evaluation measures networks that the prediction was not fitted to, and sets simple baselines beside it."""

from dataclasses import replace

import numpy as np
import pytest

from predictors.device import device_name
from predictors.evaluate import _linear, evaluate
from predictors.profiling import calibration_architectures
from searchspace.load import load_space
from tests.predictors.synthetic import WORKLOAD, network, roofline_ms, space_profile


def test_an_evaluation_names_every_ranking_and_the_depths_it_has():
    space = load_space("tiny-lm")
    archs = calibration_architectures(space, WORKLOAD, 8).values()
    networks = [network(space, arch, 1.0 + i) for i, arch in enumerate(archs)]
    profile = replace(space_profile(space, roofline_ms, networks=networks), device=device_name("cpu"))
    rounds = []
    found = evaluate(space, profile, 12, samples=5, on_round=lambda done, of: rounds.append((done, of)))
    assert [row.name for row in found.rows] == [
        "predicted",
        "retest",
        "roofline",
        "flops",
        "parameters",
        "linear",
    ]
    assert len(found.measured) == len(found.depths) == 12
    assert found.num_fitted == 8
    assert all(-1 <= row.spearman <= 1 for row in found.rows)
    assert all(0 <= row.median_error <= row.error_95 for row in found.rows)
    assert rounds[-1] == (10, 10)
    assert all(
        row.by_depth.keys() == {d for d in found.depths if found.depths.count(d) >= 5} for row in found.rows
    )
    text = found.table()
    assert all(row.name in text for row in found.rows)
    assert "12 other random networks" in text


def test_without_networks_of_the_space_nothing_is_evaluated():
    space = load_space("tiny-lm")
    with pytest.raises(ValueError, match="no networks of tiny-lm: profile that space first"):
        evaluate(space, space_profile(space), 4)


def test_the_linear_baseline_finds_a_linear_law():
    rng = np.random.default_rng(0)
    X, unseen = rng.uniform(1, 5, (9, 2)), rng.uniform(1, 5, (4, 2))
    assert _linear(X, 2 + X @ [3, 4], unseen) == pytest.approx(2 + unseen @ [3, 4])
