"""A search for a device that is not here predicts from its profile and times nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import nas
from nas.errors import UsageError
from nas.request.recipe import Recipe
from nas.setup.plan import plan
from nas.setup.target import with_target
from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable
from searchspace.load import load_space
from searchspace.spec.arch import ArchSpec
from studies.store import Store
from tests.predictors.synthetic import WORKLOAD, roofline_ms, space_profile

SPACE = load_space("tiny-lm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("profiles") / "distant"
    space_profile(SPACE, roofline_ms, device="a distant device").save(found)
    return found


def search(folder: Path, db: Path, objectives: list[str]) -> nas.Result:
    return nas.search(
        space=SPACE,
        objectives=objectives,
        searcher="random",
        trials=12,
        target=str(folder),
        db=f"sqlite:///{db}",
    )


def test_latencies_are_those_of_the_profile_and_nothing_is_timed(folder: Path, tmp_path: Path) -> None:
    result = search(folder, tmp_path / "nas.db", ["parameters", "latency"])
    table = OperatorTable(DeviceProfile.load(folder))
    assert result.study.objectives[1].device == "a distant device"
    assert {t.state for t in result.trials} == {"complete"}
    for trial in result.trials:
        expected = table.latency(ArchSpec.from_json(trial.arch), WORKLOAD)
        assert (trial.values["latency"], trial.values["latency_high"]) == (
            expected.value_ms,
            expected.high_ms,
        )
    assert Store(f"sqlite:///{tmp_path / 'nas.db'}").measurements() == []


def test_a_profile_that_does_not_suit_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="measured for another workload; ask for latency@forward,b=1,t=64"):
        search(folder, tmp_path / "a.db", ["parameters", "latency@decode,ctx=64"])
    with pytest.raises(UsageError, match="no objective depends on a device; add latency"):
        search(folder, tmp_path / "b.db", ["parameters", "memory"])
    with pytest.raises(UsageError, match="name the folder that `nas profile` wrote on that device"):
        search(folder / "nowhere", tmp_path / "c.db", ["parameters", "latency"])


def test_the_runtime_is_that_of_the_profile(folder: Path, tmp_path: Path) -> None:
    quick, store = tmp_path / "quick", Store(f"sqlite:///{tmp_path / 'nas.db'}")
    replace(DeviceProfile.load(folder), runtime="onnxruntime").save(quick)
    study = plan(SPACE, Recipe("tiny-lm"), ["parameters", "latency"])
    assert with_target(store, study, str(quick)).runtime == "onnxruntime"
    assert with_target(store, study, str(folder)).runtime == "eager"
    study = plan(SPACE, Recipe("tiny-lm", runtime="eager"), ["parameters", "latency"])
    with pytest.raises(UsageError, match=r"--runtime eager.*onnxruntime"):
        with_target(store, study, str(quick))
    store.close()
