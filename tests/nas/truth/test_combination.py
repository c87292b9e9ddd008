"""Combinations learn what the labels show, and never see a held-out label."""

import numpy as np
import pytest

from nas.truth.combination import LABELS, METHODS, HeldOut, Inputs, held_out, inputs
from nas.truth.readers import Table
from predictors.agreement import kendall


@pytest.fixture(scope="module")
def table() -> Table:
    """Quality is the sum of two hidden causes; one column shows each, and one shows neither."""
    rng = np.random.default_rng(0)
    causes = rng.normal(size=(80, 2))
    columns = {"first": causes[:, 0].copy(), "second": -causes[:, 1], "noise": rng.normal(size=80)}
    columns["first"][5] = np.nan
    return Table("made up", "quality", causes.sum(1), ["all"] * 80, {}, columns)


@pytest.fixture(scope="module")
def runs(table: Table) -> dict[str, HeldOut]:
    return {run.method: run for run in held_out(table, given(table), labels=LABELS, repeats=1)}


def given(table: Table) -> Inputs:
    return inputs(table, table.columns, dict.fromkeys(table.columns, False))


def test_a_missing_value_counts_as_the_middle_rank(table: Table):
    assert abs(given(table).judged[5, 0]) <= 1 / 80


def test_every_combination_of_two_causes_ranks_better_than_either(table: Table, runs: dict[str, HeldOut]):
    single = max(abs(kendall(v[6:], table.quality[6:])) for v in table.columns.values())
    assert set(runs) == set(METHODS) - {"structure", "curve"}  # the table has neither
    for name in runs:
        assert kendall(runs[name].predictions, table.quality) > single + 0.1, name


def test_a_prediction_does_not_depend_on_the_label_of_its_network(table: Table, runs: dict[str, HeldOut]):
    """With one label changed, every prediction of that network made without it stays the same."""
    changed = table.quality.copy()
    changed[11] += 5
    other = Table("made up", "quality", changed, table.strata, {}, table.columns)
    for run in held_out(other, given(other), labels=LABELS, repeats=1):
        assert run.predictions[11] == pytest.approx(runs[run.method].predictions[11]), run.method
