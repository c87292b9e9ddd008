"""Few measured networks of a device against a plain ridge, on rows of published tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictors.latency_tables import read_table
from predictors.table_evaluation import TableModel, evaluate_table, plain_ridge

DATA = Path(__file__).parents[1] / "data" / "latency"


@pytest.fixture(scope="module")
def hwgpt():
    table = read_table(DATA / "hwgpt_s.csv")
    return replace(table, ms={d: table.ms[d] for d in ("a40", "a6000", "rtx2080", "rtx3080")})


def test_another_device_of_the_table_saves_a_quarter_of_the_error_and_costs_none(hwgpt):
    rows = evaluate_table(hwgpt, draws=4, samples=(20, 50))
    assert [(r.device, r.samples) for r in rows] == [(d, n) for d in hwgpt.ms for n in (20, 50)]
    less = [1 - row.transfer / row.ridge for row in rows]
    assert np.median(less) >= 0.25
    assert min(less) >= 0
    assert {next(iter(r.sources)) for r in rows if r.device == "a40"} == {"a6000"}
    assert all(r.spearman_within > 0.97 for r in rows if r.device == "a40")


def test_tables_of_other_networks_help_through_a_model_of_them():
    own, other = (read_table(DATA / f"hat_{name}.csv") for name in ("cpu_raspberrypi", "cpu_xeon"))
    rows = evaluate_table(own, [other], draws=3)
    assert all(row.transfer < row.ridge for row in rows)


def test_a_law_that_is_the_same_on_two_devices_needs_no_samples_to_be_learned_again(hwgpt):
    """A device that takes exactly twice as long as another is predicted with no error from any samples."""
    twice = replace(hwgpt, ms={"one": hwgpt.ms["a40"], "two": 2 * hwgpt.ms["a40"]})
    rows = evaluate_table(twice, draws=2, samples=(20,))
    assert all(row.transfer < 2e-3 for row in rows)
    assert rows[0].floor == pytest.approx(rows[1].floor, rel=1e-4)  # the fits stop before they converge


def test_the_model_of_a_table_follows_its_majority(hwgpt):
    ms = np.exp(hwgpt.features.factors @ np.linspace(0.1, 0.2, hwgpt.features.factors.shape[1]))
    wrong = np.where(np.arange(len(ms)) % 7 == 0, 1.3 * ms, ms)
    found = np.exp(TableModel(hwgpt, wrong).log_ms(hwgpt))
    assert np.median(np.abs(found / ms - 1)) < 1e-3


def test_the_plain_ridge_finds_a_linear_law():
    rng = np.random.default_rng(0)
    X, unseen = rng.normal(size=(20, 3)), rng.normal(size=(5, 3))
    found = plain_ridge(X, 7 + X @ [1, 2, 3], unseen)
    assert found == pytest.approx(7 + unseen @ [1, 2, 3], rel=1e-3)


def test_tables_of_different_forms_and_short_tables_are_refused(hwgpt):
    with pytest.raises(ValueError, match="of the form HAT can't help one of the form HW-GPT"):
        evaluate_table(hwgpt, [read_table(DATA / "hat_cpu_xeon.csv")])
    few = replace(hwgpt, ms={"a40": np.where(np.arange(300) < 60, hwgpt.ms["a40"], np.nan)})
    with pytest.raises(ValueError, match="device a40 has 60 latencies in the table, at least 100 are needed"):
        evaluate_table(few)
