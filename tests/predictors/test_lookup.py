"""The sum rule on tables made by hand, its correction, and what it refuses."""

import numpy as np
import pytest

from predictors.device import NetworkRow
from predictors.lookup import Correction, OperatorTable, fit_correction, nonnegative_least_squares
from predictors.operator_grid import settings
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.arch import NONE
from searchspace.spec.genome import Encoding
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload

WORKLOAD = Workload()
SLOT_MS = {
    "mixer": 1.0,
    "ffn": 0.5,
    "norm": 0.0625,
    "stem": 2.0,
    "position": 4.0,
    "head": 8.0,
    "transition": 16.0,
}


def row(subject, value):
    return Measurement(
        subject,
        "latency",
        value,
        "ms",
        WORKLOAD,
        "a device",
        "eager",
        "by hand",
        "a software",
        "today",
        samples=9,
    )


UNCORRECTED = Correction()


def table(space, correction=UNCORRECTED):
    return OperatorTable([row(s.key, SLOT_MS[s.slot]) for s in settings(space)], WORKLOAD, correction)


def sum_by_hand(arch):
    """(ms of the operators, residual additions) read off the blocks; stem, position, head and final norm are always."""
    total, sublayers = 2.0 + 4.0 + 8.0 + 0.0625, 0
    layer = 0
    for stage in arch.stages:
        total += 16.0 * (stage.enter != NONE)
        for block in arch.blocks[layer : layer + stage.num_blocks]:
            norms = 2 if block.placement == "peri" else 1
            for op, ms in ((block.mixer, 1.0), (block.ffn, 0.5)):
                if op != NONE:
                    total += stage.repeats * (ms + norms * 0.0625)
                    sublayers += stage.repeats
        layer += stage.num_blocks
    return total, sublayers


@pytest.mark.parametrize("name", ["tiny-lm", "tiny-vision"])
def test_a_prediction_is_the_corrected_sum_of_the_rows(name):
    space = load_space(name)
    correction = Correction(slope=1.5, per_sublayer_ms=0.25, fixed_ms=3.0, low=0.5, high=2.0)
    plain, corrected = table(space), table(space, correction)
    for arch in sample(Encoding(space), 50, 0, WORKLOAD):
        total, sublayers = sum_by_hand(arch)
        assert plain.latency(arch, WORKLOAD).value_ms == pytest.approx(total)
        found = corrected.latency(arch, WORKLOAD)
        assert found.value_ms == pytest.approx(1.5 * total + 0.25 * sublayers + 3.0)
        assert (found.low_ms, found.high_ms) == pytest.approx((found.value_ms / 2, found.value_ms * 2))


def test_calibration_finds_the_correction_that_the_networks_were_made_with():
    space = load_space("tiny-lm")
    truth = Correction(slope=1.25, per_sublayer_ms=0.5, fixed_ms=2.0)
    archs = sample(Encoding(space), 12, 0, WORKLOAD)
    networks = [
        NetworkRow("tiny-lm", a, row(a.id, table(space, truth).latency(a, WORKLOAD).value_ms)) for a in archs
    ]
    found = table(space).calibrated(networks).correction
    assert (found.slope, found.per_sublayer_ms, found.fixed_ms) == pytest.approx((1.25, 0.5, 2.0))
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))


def test_the_range_holds_the_error_on_a_network_that_the_fit_did_not_see():
    sums = np.arange(1.0, 9.0)
    features = np.stack([sums, np.zeros(8), np.zeros(8)], 1)
    measured = 2 * sums
    measured[3] *= 1.5
    found = fit_correction(features, measured)
    assert found.high == pytest.approx(1.5)  # the other seven agree on a slope of 2
    assert found.low < 1.0
    with pytest.raises(ValueError, match="4 measured networks or more, got 3"):
        fit_correction(features[:3], measured[:3])


def test_least_squares_with_signs_meets_the_conditions_of_its_optimum():
    rng = np.random.default_rng(0)
    for _ in range(50):
        A, b = rng.normal(size=(8, 3)), rng.normal(size=8)
        x = nonnegative_least_squares(A, b)
        slope = A.T @ (A @ x - b)
        assert (x >= 0).all()
        assert (slope >= -1e-9).all()  # no entry would help by growing
        assert np.abs(slope * x).max() < 1e-9  # those in use are at rest


def test_another_workload_and_an_unknown_setting_are_refused():
    space = load_space("tiny-lm")
    arch = sample(Encoding(space), 1, 0, WORKLOAD)[0]
    with pytest.raises(ValueError, match=r"for the workload forward,b=1,t=64.*got forward,b=2"):
        table(space).latency(arch, Workload(batch_size=2))
    with pytest.raises(ValueError, match="no row for stem token_embedding"):
        OperatorTable([], WORKLOAD).latency(arch, WORKLOAD)
