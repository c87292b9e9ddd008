"""Objectives that state a device and a workload are read as written, and refused with a sentence otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.errors import UsageError
from nas.evaluation.objective_syntax import parse, split
from nas.request.recipe import Recipe
from nas.setup.plan import plan, recipe_of
from searchspace.spec.workload import Workload
from studies.records import Objective
from tests.nas.engine import toy

RECIPE = Recipe("toy", workload=Workload("forward", 2, 96, 0, "float32"))


def test_a_list_is_split_at_the_commas_between_objectives() -> None:
    text = "loss, latency@cpu:decode,b=1,ctx=4096,bfloat16,memory"
    assert split(text) == ["loss", "latency@cpu:decode,b=1,ctx=4096,bfloat16", "memory"]


@pytest.mark.parametrize("workload", [Workload("decode", 1, 1, 4096, "bfloat16"), Workload("train", 8, 128)])
def test_the_text_of_a_workload_reads_as_that_workload(workload: Workload) -> None:
    assert parse([f"latency@cuda:{workload}"], RECIPE, "cpu")[1:] == (
        RECIPE.changed(workload=workload),
        "cuda",
    )


def test_what_is_left_out_stays_as_in_the_recipe() -> None:
    names, recipe, device = parse(["loss", "latency@decode,ctx=64", "memory@ctx=64,decode"], RECIPE, "cpu")
    assert (names, device) == (["loss", "latency", "memory"], "cpu")
    assert recipe.workload == Workload("decode", 2, 96, 64, "float32")


@pytest.mark.parametrize(
    ("objectives", "sentence"),
    [
        (["latency@cpu:jump"], r"'jump' is no part of a workload.*forward, prefill, decode, train"),
        (["latency@cpu:decode,b=0"], "'b=0' is no part of a workload"),
        (["latency@:decode"], "the device before ':' is missing"),
        (["latency@cpu/tensorrt:forward"], "tensorrt.*eager, onnxruntime"),
        (["latency@decode", "memory@forward"], "a study is for one device, runtime and workload"),
    ],
)
def test_what_cannot_be_read_is_named(objectives: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(objectives, RECIPE, "cpu")


def test_a_study_is_planned_for_the_workload_and_device_that_an_objective_states() -> None:
    study = plan(toy.space(), Recipe("toy"), ["loss", "latency@cuda:decode,b=1,ctx=4096"])
    latency = study.objectives[1]
    assert (latency.name, latency.device, study.settings.device) == ("latency", "cuda", "cuda")
    assert latency.workload == recipe_of(study).workload
    assert (latency.workload.phase, latency.workload.context_len) == ("decode", 4096)


def test_the_runtime_is_stated_beside_the_device_and_belongs_to_the_study() -> None:
    study = plan(toy.space(), Recipe("toy"), ["loss", "latency@cpu/onnxruntime:forward,b=1,seq=128"])
    loss, latency = study.objectives
    assert (latency.device, latency.runtime, loss.runtime) == ("cpu", "onnxruntime", "")
    assert latency.workload is not None
    assert latency.workload.seq_len == 128
    assert study.runtime == "onnxruntime"
    assert plan(toy.space(), Recipe("toy"), ["loss", "latency"]).runtime == "eager"  # a text decoder


def test_a_study_of_before_there_was_a_choice_is_eager() -> None:
    study = plan(toy.space(), Recipe("toy", runtime="onnxruntime"), ["loss", "latency"])
    before = [{n: v for n, v in o.to_json().items() if n != "runtime"} for o in study.objectives]
    assert replace(study, objectives=tuple(map(Objective.from_json, before))).runtime == "eager"


@pytest.mark.parametrize(
    ("recipe", "objectives", "named"),
    [
        (
            Recipe("toy", runtime="onnxruntime"),
            ["loss", "latency@decode,ctx=8"],
            "--runtime onnxruntime.*decode",
        ),
        (Recipe("toy", runtime="onnxruntime"), ["loss", "parameters"], "--runtime onnxruntime.*latency"),
        (Recipe("toy"), ["loss", "latency@cuda/onnxruntime:forward"], "--runtime onnxruntime.*cuda"),
    ],
)
def test_a_runtime_that_nothing_is_timed_in_is_refused(
    recipe: Recipe, objectives: list[str], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        plan(toy.space(), recipe, objectives)


def test_an_unknown_runtime_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"runtime.*fast.*auto, eager, onnxruntime"):
        Recipe("toy", runtime="fast")
