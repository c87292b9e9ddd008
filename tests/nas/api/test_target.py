"""A search for a device that is not here predicts from its profile and times nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.errors import UsageError
from nas.evaluation.costs import exact_losses
from nas.evaluation.judge import of
from nas.request.recipe import Recipe
from nas.setup.plan import plan
from nas.setup.target import with_target
from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable
from searchspace.load import load_space
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
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


def test_what_the_profile_predicts_is_what_a_trial_is_given_and_unknown_where_the_profile_is_another(
    folder: Path,
) -> None:
    recipe, encoding = Recipe("tiny-lm"), Encoding(SPACE)
    study = plan(SPACE, recipe, ["loss", "parameters", "latency"])
    losses = exact_losses(study.objectives, recipe, SPACE.name, folder)
    assert sorted(losses) == [1, 2]
    assert sorted(exact_losses(study.objectives, recipe, SPACE.name, None)) == [1]
    judge = of(SPACE, recipe, study.objectives[1:], Path(), folder)
    for _, arch in islice(valid_architectures(encoding, np.random.default_rng(0), recipe.workload), 5):
        values = judge(arch)
        assert (losses[1](arch), losses[2](arch)) == (values["parameters"], values["latency"])
    other, rng = Encoding(load_space("tiny-vision")), np.random.default_rng(0)
    _, vision = next(valid_architectures(other, rng, recipe.workload))
    assert math.isnan(losses[2](vision))


def test_a_guided_search_over_computed_losses_goes_on_as_if_it_had_never_stopped(
    folder: Path, tmp_path: Path
) -> None:
    def archs(name: str, *trials: int) -> list[str]:
        asked = {"target": str(folder), "db": f"sqlite:///{tmp_path / name}.db", "searcher": "guided"}
        result = nas.search(space=SPACE, objectives=["parameters", "latency"], trials=trials[0], **asked)
        for more in trials[1:]:
            result = nas.resume(result.study.name, trials=more, db=asked["db"])
        return [t.arch_id for t in result.trials]

    whole = archs("whole", 40)
    assert len(set(whole)) == 40
    assert archs("parts", 17, 23) == whole


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
