"""Operators between measured settings, lengths and batches: a roofline is found, and what is stated holds."""

import numpy as np
import pytest

from predictors.interpolation import UNKNOWN_ERROR, Interpolation, OperatorRow
from searchspace.spec.workload import Workload


def mlp(d_model, d_ff, T=64, batch=1):
    flops = 4.0 * batch * T * d_model * d_ff
    moved = 4.0 * (2 * d_model * d_ff + 2 * batch * T * d_model)
    return OperatorRow(
        f"ffn mlp(activation=gelu, d_ff={d_ff}) d_model={d_model} max_len=64",
        flops,
        moved,
        Workload(seq_len=T, batch_size=batch),
    )


def roofline(row):
    return 0.02 + row.flops / 2e8 + row.bytes / 1e7


def test_widths_lengths_and_batches_between_measured_ones_follow_the_roofline():
    rows = [mlp(D, F, T, B) for D in (32, 64, 128) for F in (64, 256) for T in (32, 128) for B in (1, 4)]
    found = Interpolation(rows, [roofline(r) for r in rows])
    between = [mlp(48, 128), mlp(96, 192, 64, 2), mlp(128, 100, 100, 3)]
    ms, errors = found.predict(between)
    assert ms == pytest.approx([roofline(r) for r in between], rel=0.03)
    assert (errors < 0.05).all()


def test_the_stated_error_grows_with_the_noise_and_holds():
    rng = np.random.default_rng(0)
    rows = [mlp(int(D), int(F)) for D, F in rng.integers(16, 256, (40, 2))]
    unseen = [mlp(int(D), int(F)) for D, F in rng.integers(16, 256, (200, 2))]
    stated = []
    for noise in (0.01, 0.1):
        values = [roofline(r) * np.exp(noise * rng.normal()) for r in rows]
        ms, errors = Interpolation(rows, values).predict(unseen)
        true = np.array([roofline(r) * np.exp(noise * rng.normal()) for r in unseen])
        assert np.mean(np.abs(np.log(ms / true)) <= errors) > 0.75
        stated.append(errors[0])
    assert stated[1] > 3 * stated[0]


def test_an_operator_with_too_few_rows_has_a_large_error_and_one_with_none_is_refused():
    found = Interpolation([mlp(32, 64), mlp(64, 64)], [1.0, 4.0])
    ms, errors = found.predict([mlp(48, 64)])
    assert (ms[0], errors[0]) == (pytest.approx(2.0), UNKNOWN_ERROR)
    with pytest.raises(ValueError, match="no setting of ffn other is measured"):
        found.predict([OperatorRow("ffn other d_model=8", 1.0, 1.0, Workload())])
