"""FLOPs and decoding state of every causal mixer grow with the length as its entry claims."""

import pytest

from tests.benchmarks.growth import claimed, exact, fitted, mixer, mixers


@pytest.mark.parametrize("entry", mixers(), ids=lambda e: e.name)
def test_flops_and_state_grow_as_claimed(entry):
    flops, state = exact(mixer(entry, 2048))
    assert state.value == pytest.approx(claimed(entry.state), abs=0.05)
    if flops.value > 0.01:  # sums over a window are no matrix products and count nothing
        assert flops.value == pytest.approx(claimed(entry.complexity), abs=0.1)


def test_the_exponent_of_a_power_is_the_power():
    lengths = (64, 128, 256)
    assert fitted(lengths, [3 * T**1.5 for T in lengths]).value == pytest.approx(1.5)
    assert fitted(lengths, [7.0, 7.0, 7.0]).value == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("text", "exponent"),
    [
        ("T H K V", 1),
        ("T S H K, the map held", 2),
        ("T (w + T / sigma)", 2),
        ("G K V + (taps - 1) K", 0),
        ("T^2 + 4 T", 2),
    ],
)
def test_a_formula_is_read_as_it_is_written(text, exponent):
    assert claimed(text) == pytest.approx(exponent, abs=0.01)
