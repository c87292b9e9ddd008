"""A bound on latency at the end of a search: the measurement has to keep it, whatever the prediction said."""

import pytest

from nas.finalists import Latency
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload

BOUND_MS = 2.0


def timed(ms: float) -> Measurement:
    made = ("eager", "by hand", "a software", "today")
    return Measurement("an architecture", "latency", ms, "ms", Workload(), "a device", *made)


@pytest.mark.parametrize(
    ("predicted", "measured", "is_over"), [(1.5, 2.5, True), (2.5, 1.5, False), (1.5, BOUND_MS, False)]
)
def test_a_finalist_is_over_the_bound_where_its_measurement_is(
    predicted: float, measured: float, is_over: bool
) -> None:
    stated = Latency(predicted, timed(measured), BOUND_MS).to_json()
    assert (stated["predicted"], stated["measured"]) == (predicted, measured)
    assert stated["over_bound"] is is_over


def test_nothing_is_over_a_bound_that_was_not_set_or_not_measured() -> None:
    assert "over_bound" not in Latency(1.5, timed(2.5)).to_json()
    assert Latency(2.5, None, BOUND_MS).to_json() == {"predicted": 2.5, "measured": None}
