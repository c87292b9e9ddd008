"""The sum rule on tables made by hand, its correction, its range, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from predictors.lookup import Correction, OperatorTable, Sums, fit_correction, nonnegative_least_squares
from predictors.operator_grid import covering, settings
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.arch import NONE
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from tests.predictors.synthetic import WORKLOAD, network, profile, roofline_ms, space_profile


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
    made = space_profile(space)
    correction = Correction(1.5, 0.25, 3.0, spread=0.125, width=2.0)
    plain, corrected = OperatorTable(made), OperatorTable(made, correction)
    for arch in sample(Encoding(space), 50, 0, WORKLOAD):
        total, sublayers = sum_by_hand(arch)
        assert plain.latency(arch, WORKLOAD).value_ms == pytest.approx(total)
        found = corrected.latency(arch, WORKLOAD)
        assert found.value_ms == pytest.approx(1.5 * total + 0.25 * sublayers + 3.0)
        ends = found.value_ms * np.exp(-0.25), found.value_ms * np.exp(0.25)
        assert (found.low_ms, found.high_ms) == pytest.approx(ends)


@pytest.mark.parametrize("count", [8, 40])
def test_calibration_finds_the_correction_that_the_networks_were_made_with(count):
    space = load_space("tiny-lm")
    truth = OperatorTable(space_profile(space, roofline_ms), Correction(1.25, 0.5, 2.0))
    archs = sample(Encoding(space), count + 20, 0, WORKLOAD)
    networks = [network(space, a, truth.latency(a, WORKLOAD).value_ms) for a in archs]
    fitted = OperatorTable.of_profile(space_profile(space, roofline_ms, networks=networks[:count]), "tiny-lm")
    for known in networks[count:]:
        found = fitted.latency(known.arch, WORKLOAD)
        assert found.value_ms == pytest.approx(known.measurement.value, rel=1e-2)


def random_sums(rng, count):
    """Of four operators, none of them interpolated: ms, counts, uncertain ms, additions [count, 10]."""
    sums = rng.uniform(1.0, 4.0, (count, 10))
    sums[:, 4:8], sums[:, 8], sums[:, 9] = 1.0, 0.0, rng.integers(4, 12, count)
    return sums


def test_what_the_sum_can_not_say_is_learned():
    """Mixers that overlap with the rest: their time counts half as much in the network as alone."""
    rng = np.random.default_rng(0)
    sums, unseen = random_sums(rng, 60), random_sums(rng, 100)

    def truth(sums):
        return sums[:, :4] @ [0.5, 1.0, 1.0, 1.0] + 0.1 * sums[:, 9]

    found = fit_correction(sums, truth(sums))
    assert found.learned is not None
    learned = np.abs(found.predict(unseen)[0] / truth(unseen) - 1)
    plain = np.abs(found.plain_ms(Sums.of(unseen)) / truth(unseen) - 1)
    assert np.median(learned) < 0.005 < 5 * np.median(plain)


@pytest.mark.parametrize("count", [16, 40])
@pytest.mark.parametrize("heavy", [False, True])
def test_the_stated_range_of_90_percent_covers_between_85_and_95(count, heavy):
    """Over many devices, each with networks of its own, whatever the distribution of the noise."""
    rng, inside = np.random.default_rng(1), []
    for _ in range(30):
        sums, unseen = random_sums(rng, count), random_sums(rng, 50)
        noise = rng.standard_t(3, count + 50) if heavy else rng.normal(size=count + 50)
        true = np.concatenate([sums, unseen])[:, :4].sum(1) * np.exp(0.04 * noise)
        value, low, high = fit_correction(sums, true[:count]).predict(unseen)
        assert (low <= value).all()
        inside.append(np.mean((low <= true[count:]) & (true[count:] <= high)))
    assert 0.85 <= np.mean(inside) <= 0.95


def test_the_range_also_covers_where_twenty_networks_must_scale_twelve_operators():
    """As when the table of another device is adapted: the fit has more numbers than it has networks."""
    rng, inside = np.random.default_rng(2), []
    for _ in range(30):
        counts = rng.integers(0, 3, (70, 12)).astype(float)
        own, new = rng.uniform(0.1, 1.0, (2, 12))
        sums = np.column_stack([counts * own, counts, np.zeros(70), counts.sum(1)])
        true = (counts @ new + 0.05 * counts.sum(1)) * np.exp(0.03 * rng.normal(size=70))
        _, low, high = fit_correction(sums[:20], true[:20]).predict(sums[20:])
        inside.append(np.mean((low <= true[20:]) & (true[20:] <= high)))
    assert 0.85 <= np.mean(inside) <= 0.95


def test_a_setting_that_was_not_measured_is_interpolated_and_widens_the_range():
    space = load_space("lm-hybrid")
    everything = settings(space)
    whole = OperatorTable(profile(everything, roofline_ms), Correction(spread=0.0, width=2.0))
    part = OperatorTable(profile(covering(everything, 100), roofline_ms), Correction(spread=0.0, width=2.0))
    errors, wider = [], 0
    for arch in sample(Encoding(space), 50, 0, WORKLOAD):
        exact, found = whole.latency(arch, WORKLOAD), part.latency(arch, WORKLOAD)
        errors.append(abs(found.value_ms / exact.value_ms - 1))
        assert found.high_ms / found.value_ms >= exact.high_ms / exact.value_ms - 1e-12
        wider += found.high_ms / found.value_ms > exact.high_ms / exact.value_ms + 1e-6
    assert wider > 40
    assert max(errors) < 0.05


def test_least_squares_with_signs_meets_the_conditions_of_its_optimum():
    rng = np.random.default_rng(0)
    for _ in range(50):
        A, b = rng.normal(size=(8, 3)), rng.normal(size=8)
        x = nonnegative_least_squares(A, b)
        slope = A.T @ (A @ x - b)
        assert (x >= 0).all()
        assert (slope >= -1e-9).all()  # no entry would help by growing
        assert np.abs(slope * x).max() < 1e-9  # those in use are at rest


def test_another_workload_an_unmeasured_operator_and_one_that_does_not_run_are_refused():
    space = load_space("tiny-lm")
    arch = sample(Encoding(space), 1, 0, WORKLOAD)[0]
    made = space_profile(space)
    with pytest.raises(ValueError, match=r"for the workload forward,b=1,t=64.*got forward,b=2"):
        OperatorTable(made).latency(arch, Workload(batch_size=2))
    with pytest.raises(ValueError, match="no setting of stem token_embedding is measured"):
        OperatorTable(replace(made, operators=())).latency(arch, WORKLOAD)
    head = next(
        row.subject
        for row in made.operators
        if row.subject.startswith(f"head lm_head(vocab_size=256) d_model={arch.d_model}")
    )
    with pytest.raises(ValueError, match="does not run on this device: out of memory"):
        OperatorTable(replace(made, failures={head: "out of memory"})).latency(arch, WORKLOAD)
    with pytest.raises(ValueError, match="4 measured networks or more, got 3"):
        fit_correction(np.ones((3, 10)), np.ones(3))
