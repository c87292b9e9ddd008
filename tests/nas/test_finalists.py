"""A bound on latency at the end of a search: the measurement has to keep it, whatever the prediction said."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas.finalists import Latency, measured_latencies
from nas.request.recipe import Recipe
from nas.setup.plan import plan, recipe_of
from predictors.device import device_name
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload
from studies.store import Store
from tests.nas.engine import toy

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


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_study_reads_the_latencies_of_its_own_runtime(runtime: str, tmp_path: Path) -> None:
    name = device_name("cpu")
    rows = [
        replace(timed(ms), implementation=runs_in, device=name)
        for runs_in, ms in (("eager", 3.0), ("onnxruntime", 1.0))
    ]
    study = plan(toy.space(), Recipe("toy", runtime=runtime), ["loss", "latency"])
    store = Store(f"sqlite:///{tmp_path / 'nas.db'}")
    for order in (rows, rows[::-1]):
        store.add_measurements(order)
        (found,) = measured_latencies(store, study, recipe_of(study), ["an architecture"]).values()
        assert found.implementation == runtime
    store.close()
