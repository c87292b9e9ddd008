"""Numbers and names that people write, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from searchspace.spec.reading import LARGEST, bounds, real, shown, unknown, whole


@pytest.mark.parametrize("value", [True, 2.0, "2", None, [2], math.nan, -1, LARGEST + 1])
def test_what_is_no_whole_number_in_range_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"--seed .*give a whole number"):
        whole("--seed", value)


def test_whole_numbers_at_both_ends_are_taken() -> None:
    assert [whole("x", n, 1, 3) for n in (1, 2, 3)] == [1, 2, 3]
    assert whole("x", LARGEST) == LARGEST


@pytest.mark.parametrize("value", [True, "2", None, math.nan, math.inf, -math.inf, 0.0, 1.5])
def test_what_is_no_number_in_range_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"rate .*give a finite number"):
        real("rate", value, most=1.0, above=0.0)


def test_bounds_are_finite_and_in_order() -> None:
    assert bounds("q", None, 2) == (None, 2.0)
    assert bounds("q", 2, 2) == (2.0, 2.0)
    for lower, upper in ((2, 1), (math.nan, None), (None, math.inf), ("1", None)):
        with pytest.raises(ValueError, match="q"):
            bounds("q", lower, upper)


def test_an_unknown_name_is_answered_with_the_nearest_and_the_known() -> None:
    assert unknown("latncy", ["latency", "loss"]) == (
        "unknown 'latncy'; did you mean latency? known: latency, loss"
    )
    assert "known: none" in unknown("x", [])
    many = [f"name{i}" for i in range(100)]
    assert "name99" not in unknown("name1x", many)
    assert "name99" in unknown("zzz", many)


def test_what_an_error_repeats_is_one_short_line() -> None:
    for value in ("a\nb", "x" * 1000, 10**5000, "\udce9", ""):
        text = shown(value)
        assert text.isprintable()
        assert 0 < len(text) < 80


def test_numbers_of_thousands_of_digits_are_refused_like_others() -> None:
    with pytest.raises(ValueError, match="give a whole number"):
        whole("x", 10**5000)
    with pytest.raises(ValueError, match="give a finite number"):
        real("x", 10**5000)
