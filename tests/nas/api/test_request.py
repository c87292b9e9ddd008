"""An option is declared once: command line, Python, recipe, service and its client take it from there."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

import nas
from nas.cli.main import main, parser
from nas.cli.options import add_options, given
from nas.client import Client
from nas.errors import UsageError
from nas.request.functions import python_function
from nas.request.options import Whole, key, options_of
from nas.request.recipe import Recipe, load_recipe
from nas.request.schema import (
    EvaluateRequest,
    ExtractRequest,
    LocalRecipeKeys,
    ProfileRequest,
    RecipeKeys,
    ResumeOptions,
    ResumeRequest,
    SearchOptions,
    SearchRequest,
    ServiceResume,
    ServiceSearch,
    TrainRequest,
)
from nas.service.answers import of_fields
from nas.service.artifacts import key_of
from nas.service.bodies import NewStudy, StudyChange
from nas.service.fields import Strict, body_of, request_of
from nas.setup.plan import requested
from searchspace.load import load_space
from searchspace.spec.space import SpaceSpec
from studies.records import Trial
from tests.nas.engine import toy

FUNCTIONS: list[tuple[Callable[..., Any], type]] = [
    (nas.search, SearchRequest),
    (nas.resume, ResumeRequest),
    (Client.search, ServiceSearch),
    (Client.resume, ServiceResume),
]


def flags_of(command: str) -> set[str]:
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {flag for a in action.choices[command]._actions for flag in a.option_strings}


COMMANDS: list[tuple[str, type, set[str]]] = [
    ("search", SearchRequest, {"--picture", "--print-recipe"}),
    ("resume", ResumeRequest, {"--picture"}),
    ("extract", ExtractRequest, {"--knee", "--trial", "--max", "--min", "--out"}),
    ("train", TrainRequest, set()),
    ("profile", ProfileRequest, set()),
    ("predict", EvaluateRequest, {"--table", "--source", "--draws", "--seed"}),
]


@pytest.mark.parametrize(("command", "schema", "own"), COMMANDS)
def test_the_command_line_has_the_flags_of_every_option(command: str, schema: type, own: set[str]) -> None:
    wanted = {flag for option in options_of(schema).values() for flag in option.flags}
    assert flags_of(command) - {"-h", "--help", "--json", "--debug"} - own == wanted


@pytest.mark.parametrize(("function", "schema"), FUNCTIONS)
def test_functions_of_python_have_a_parameter_for_every_option(
    function: Callable[..., Any], schema: type
) -> None:
    assert set(inspect.signature(function).parameters) - {"self"} == set(options_of(schema))


@pytest.mark.parametrize(
    ("body", "schema", "beside"),
    [(NewStudy, ServiceSearch, set()), (StudyChange, ServiceResume, {"action", "priority"})],
)
def test_the_body_of_a_request_has_a_field_for_every_option(
    body: Any, schema: type, beside: set[str]
) -> None:
    assert set(body.model_fields) == {o.body for o in options_of(schema).values() if o.body} | beside
    assert all(field.description for name, field in body.model_fields.items() if name not in beside)


def test_keys_are_keys_of_a_recipe_with_its_default_and_its_check() -> None:
    in_recipe, asked = options_of(Recipe), options_of(SearchRequest)
    keys = {name for name, option in asked.items() if option.is_key}
    assert keys == {f.name for f in fields(LocalRecipeKeys)}
    for name in keys:
        assert in_recipe[name] == asked[name]
        assert getattr(Recipe("toy"), name) == asked[name].default


def test_the_client_has_the_options_of_nas_except_what_is_of_this_machine() -> None:
    """Files, processes and objects of the caller are not the server's."""
    missing = set(options_of(SearchRequest)) - set(options_of(ServiceSearch))
    of_this_machine = {f.name for f in fields(LocalRecipeKeys)} - {f.name for f in fields(RecipeKeys)}
    of_this_machine |= {"db", "runner", "workers", "address", "gpus_per_worker", "evaluate", "hooks"}
    assert missing == of_this_machine | {"target", "recipe"}
    assert set(options_of(ServiceResume)) - {"on_event"} == set(options_of(ResumeOptions))


@dataclass(frozen=True, kw_only=True)
class _More(SearchOptions):
    """A schema with one option more."""

    patience: int = key(3, "how long to wait", Whole(1, 9))


def test_one_new_field_is_a_flag_a_parameter_and_a_field_of_the_body() -> None:
    command = argparse.ArgumentParser()
    add_options(command, _More)
    assert given(_More, command.parse_args(["--patience", "4"])) == {"patience": 4}
    assert given(_More, command.parse_args([])) == {}

    @python_function(_More)
    def function(request: _More) -> tuple[int, dict[str, Any]]:
        return request.patience, request.keys

    assert function(patience=4) == (4, {"patience": 4})
    assert function() == (3, {})
    assert "patience: how long to wait" in (function.__doc__ or "")
    with pytest.raises(UsageError, match=r"^patience 10: give a whole number from 1 to 9"):
        function(patience=10)
    body = body_of(_More, Strict, "Body", "")
    assert request_of(_More, body(name="s", patience=4)).keys == {"patience": 4}
    with pytest.raises(ValueError, match="less than or equal to 9"):
        body(name="s", patience=10)


BAD = [
    ({"quality": "best"}, "quality", "best"),
    ({"searcher": "psychic"}, "searcher", "psychic"),
    ({"trials": 0}, "trials", "0"),
    ({"ladder": ["proxy"], "searcher": "halving", "quality": "supernet"}, "gate_anyway", "add gate_anyway"),
    ({"bounds": {"loss": (2, 1)}}, "bounds", "contradict"),
    ({"keep": {"mixer": ["teleport"]}}, "keep", "teleport"),
    ({"bounds": [("latency", 1)]}, "bounds", "lower, upper"),
    ({"keep": ["softmax_attention"]}, "keep", "what is kept"),
    ({"objectives": 3}, "objectives", "list of names"),
    ({"warm_start": "gone", "searcher": "nsga2"}, "warm_start gone", "searcher guided"),
    ({"study": ".hidden"}, "study", "dot"),
]


@pytest.mark.parametrize(("options", "name", "more"), BAD)
def test_an_error_names_the_option_as_python_does(
    options: dict[str, Any], name: str, more: str, tmp_path: Any
) -> None:
    with pytest.raises(UsageError) as refused:
        nas.search(space="tiny-lm", db=f"sqlite:///{tmp_path}/nas.db", **options)
    assert name in str(refused.value)
    assert more in str(refused.value)
    assert "--" not in str(refused.value)


def test_what_is_given_wins_over_the_recipe_and_nothing_else_does() -> None:
    recipe = Recipe("toy", trials=7, seed=5, searcher="random")
    study = requested(SearchRequest(seed=0, training_steps=9), toy.space(), recipe, has_judge=False)
    assert (study.max_trials, study.seed, study.searcher) == (7, 0, "random")
    trained = Recipe.from_json(study.settings.recipe)
    assert (trained.training.steps, trained.alone.steps, trained.alone.warmup_steps) == (9, 9, 9)


def test_the_same_search_is_the_same_study_by_every_way() -> None:
    """What a service and a command line are told in their words: narrowed space, bounds, budget, ladder."""
    flags = "--study s --objectives loss,memory --keep d_model=32,64 --keep mixer=softmax_attention,none "
    flags += "--max memory=0.5 --trials 7 --training-steps 11 --time 2h --lag 3 --searcher halving --ladder quarter"
    command = argparse.ArgumentParser()
    add_options(command, SearchRequest)
    request = SearchRequest.of(given(SearchRequest, command.parse_args(flags.split())))
    body = {
        "name": "s",
        "objectives": ["loss", "memory"],
        "keep": {"d_model": [32, 64], "mixer": ["softmax_attention", "none"]},
        "bounds": {"memory": [None, 0.5]},
        "trials": 7,
        "training_steps": 11,
        "minutes": 120,
        "lag": 3,
        "searcher": "halving",
        "ladder": ["quarter"],
    }
    space, recipe = load_space("tiny-lm"), load_recipe("tiny-lm")
    there = requested(
        request_of(ServiceSearch, NewStudy.model_validate(body | {"space": "tiny-lm"})), space, recipe
    )
    here = requested(request, space, recipe)
    assert SpaceSpec.from_json(here.space).d_model.values == (32, 64)
    for name in (
        "space",
        "objectives",
        "searcher",
        "seed",
        "lag",
        "max_trials",
        "max_seconds",
        "quality",
        "settings",
    ):
        assert json.dumps(getattr(there, name), default=vars) == json.dumps(
            getattr(here, name), default=vars
        ), name


def test_a_narrowed_choice_that_there_is_not_is_named_with_its_flag(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(["search", "--space", "tiny-lm", "--keep", "mixer=teleport", "--objectives", "parameters"]) == 2
    )
    assert "--keep: mixer has no 'teleport'" in capsys.readouterr().err


def test_the_service_names_fields_and_leaves_commands_as_they_are() -> None:
    """Such as in what the process of an extraction says, or a worker that failed."""
    said = of_fields("--format gguf, --max loss=1 of --study s: see `nas extract s --knee`; a-b--c")
    assert said == "formats gguf, bounds loss=1 of name s: see `nas extract s --knee`; a-b--c"


def test_an_extraction_with_more_to_make_is_another_artifact() -> None:
    study, trial = replace(toy.study("random", 1), id=7, created_at="2026-01-02"), Trial(3, {}, "abc")
    assert key_of(study, trial, {}) == "7-20260102-3-abc"
    keys = [
        key_of(study, trial, asked) for asked in ({"finetune": 5}, {"finetune": 6}, {"formats": ["onnx"]})
    ]
    assert len({*keys}) == 3
    assert all(key.startswith("7-20260102-3-abc-") for key in keys)
