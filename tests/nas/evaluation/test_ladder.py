"""A ladder of judgements: named in a recipe, judged rung by rung, and bounds kept by the end of the interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import nas
from nas.errors import Infeasible, UsageError
from nas.evaluation.judge import Judge
from nas.evaluation.trained import TrainedQuality
from nas.request.recipe import Recipe
from nas.setup.plan import plan, recipe_of
from nas.tasks.load import load_task
from nas.training.settings import OptimizerSettings
from searchspace.load import load_space
from searchspace.plain import plain_family
from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid
from studies.fidelity import PROXY, SHARES, at
from studies.records import Objective

ARCH = ArchSpec("causal_lm", OpSpec("embedding"), 32, (), (), OpSpec("lm_head"))
BOUNDED = (Objective("latency", source="predicted", upper=2.0), Objective("loss", source="trained"))


def latency(value: float, high: float) -> Judge:
    common: list[Callable[[ArchSpec], Mapping[str, float]]] = [
        lambda arch: {"latency": value, "latency_high": high}
    ]
    rungs: dict[str, Callable[[ArchSpec], Mapping[str, float]]] = {
        "quarter": lambda arch: {"loss": 2.0},
        "": lambda arch: {"loss": 1.0},
    }
    return Judge(common, rungs, BOUNDED)


def test_a_judge_gives_the_quality_of_the_rung_that_is_asked_for() -> None:
    judge = latency(1.0, 1.5)
    assert [judge(ARCH, rung)["loss"] for rung in ("quarter", "")] == [2.0, 1.0]


def test_an_upper_bound_is_judged_on_the_upper_end_of_the_interval() -> None:
    with pytest.raises(Infeasible) as found:
        latency(1.5, 2.5)(ARCH)
    assert found.value.violations == {"latency": 0.5}
    assert found.value.values["latency"] == 1.5


def test_a_training_free_score_stands_for_quality_at_the_lowest_rung() -> None:
    assert [o.name for o in at("proxy", BOUNDED)] == ["latency", PROXY]
    assert at("quarter", BOUNDED) == at("", BOUNDED) == BOUNDED


def test_a_recipe_with_a_ladder_is_read_back_from_its_text() -> None:
    import tomllib

    recipe = Recipe("tiny-lm", searcher="halving", ladder=("proxy", "supernet", "quarter"), quality="train")
    assert Recipe.from_json(tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"searcher": "halving"}, r"--searcher halving with --ladder \(none\): .* halving needs one"),
        ({"searcher": "nsga2", "ladder": ("quarter",)}, "--searcher nsga2 with --ladder quarter"),
        ({"ladder": ("proxy",)}, "--ladder proxy: guided climbs supernet, eighth, .* use --searcher halving"),
        (
            {"searcher": "halving", "ladder": ("quarter",), "quality": "supernet"},
            "--ladder quarter: below --quality supernet it may have, in this order: proxy",
        ),
        (
            {"searcher": "halving", "ladder": ("supernet", "proxy"), "quality": "train"},
            "--ladder supernet,proxy: below --quality train .* in this order: proxy, supernet, eighth, quarter, half",
        ),
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Recipe("tiny-lm").changed(**changes)


@pytest.mark.parametrize(
    ("recipe", "quality", "ladder"),
    [
        (Recipe("tiny-lm"), "train", tuple(SHARES)),
        (Recipe("tiny-lm", ladder=("quarter",)), "train", ("quarter",)),
        (Recipe("tiny-lm", searcher="nsga2"), "supernet", ()),
        (Recipe("tiny-lm", model="folder"), "train", ("supernet", "quarter")),
        (Recipe("tiny-lm", model="folder", searcher="nsga2"), "train", ()),
        (Recipe("tiny-lm", model="folder", trials=24), "train", ()),
        (Recipe("tiny-lm", quality="proxy", objectives=("parameters",)), "proxy", ()),
    ],
)
def test_auto_trains_where_the_searcher_climbs(recipe: Recipe, quality: str, ladder: tuple[str, ...]) -> None:
    assert (recipe.settled().quality, recipe.settled().ladder) == (quality, ladder)


def test_a_bound_on_quality_waits_until_it_is_judged_in_full() -> None:
    objectives = (Objective("loss", source="trained", upper=2.0), Objective("parameters", upper=5.0))
    waiting, counted = at("quarter", objectives)
    assert (waiting.upper, counted.upper) == (None, 5.0)
    judge = Judge([], {"quarter": lambda arch: {"loss": 3.0}, "": lambda arch: {"loss": 3.0}}, objectives[:1])
    assert judge(ARCH, "quarter") == {"loss": 3.0}
    with pytest.raises(Infeasible):
        judge(ARCH)


def test_a_training_goes_on_where_a_lower_rung_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit as if it had never paused, and what was judged once is not judged again."""
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "first"))
    space = load_space("tiny-lm")
    encoding = Encoding(space)
    arch = encoding.decode(plain_family(encoding, why_invalid, Workload())[0])
    task = load_task(space.data, stem=space.stem, head=space.head)
    alone = OptimizerSettings(steps=8, warmup_steps=2, batch_size=4)
    recipe = Recipe("tiny-lm", validation_examples=8, batch_size=4, alone=alone)
    rungs = {
        name: TrainedQuality.of(task, recipe, 3).until(share)
        for name, share in {**SHARES, "train": 1.0}.items()
    }
    assert [r.steps for r in rungs.values()] == [1, 2, 4, 8]
    climbed = {name: judge(arch) for name, judge in rungs.items()}
    assert {name: judge(arch) for name, judge in reversed(rungs.items())} == climbed
    weights = rungs["train"].native(arch).state_dict()
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "second"))
    at_once = rungs["train"]
    assert at_once(arch) == climbed["train"]
    for name, tensor in at_once.native(arch).state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert rungs["quarter"](arch) == climbed["quarter"]  # after the whole training, which went past it


def test_a_proxy_that_is_not_known_to_beat_size_decides_only_when_told_to(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^ladder proxy: .* beat parameter count on space tiny-lm: tau .* gate_any"
    ):
        nas.search(space="tiny-lm", searcher="halving", ladder=["proxy"], db=f"sqlite:///{tmp_path}/nas.db")
    assert not (tmp_path / "nas.db").exists()


def test_a_study_climbs_from_proxies_to_training(tmp_path: Path) -> None:
    alone = OptimizerSettings(steps=4, warmup_steps=1, batch_size=4)
    recipe = Recipe("tiny-lm", validation_examples=8, alone=alone, lag=1, objectives=("loss", "parameters"))
    recipe = recipe.changed(beat_baseline=False)
    found = nas.search(
        recipe=recipe,
        searcher="halving",
        ladder=["proxy", "quarter"],
        gate_anyway=True,
        quality="train",
        trials=24,
        runner="local",
        db=f"sqlite:///{tmp_path}/nas.db",
    )
    rungs = Counter(t.fidelity for t in found.trials)
    assert rungs["proxy"] > rungs["quarter"] > rungs[""] >= 1
    for trial in found.trials:
        assert trial.state == ("pruned" if trial.fidelity else "complete")
        assert (PROXY in trial.values) == (trial.fidelity == "proxy") == ("loss" not in trial.values)
    assert {t.fidelity for t in found.front} == {""}
    parents = {t.number: t for t in found.trials}
    for trial in (t for t in found.trials if t.origin == "promoted"):
        assert parents[trial.parents[0]].arch_id == trial.arch_id


def test_where_no_quality_is_asked_for_nothing_is_trained() -> None:
    study = plan(load_space("tiny-lm"), Recipe("tiny-lm"), ["parameters", "flops"])
    assert recipe_of(study).ladder == ()
    assert recipe_of(plan(load_space("tiny-lm"), Recipe("tiny-lm"), ["loss", "flops"])).ladder == tuple(
        SHARES
    )
