"""A study of images: its runtime is onnxruntime, from the search to the file that is handed out."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.api import Hooks, searched
from nas.cli.look import front_json
from nas.errors import UsageError
from nas.extraction import Selection, extract
from nas.request.recipe import Recipe
from nas.request.schema import SearchRequest
from nas.setup.plan import plan
from nas.setup.preparation import Step
from nas.setup.runtime import in_runtime, with_int8, without_int8
from nas.training.settings import OptimizerSettings
from searchspace.load import load_space, resolve
from studies.store import Store

IMAGES: dict[str, Any] = {
    "name": "images",
    "task": "classification",
    "data": "digits",
    "d_model": [16],
    "position": "learned",
    "final_norm": "layernorm",
    "stem": {"op": "patch_embedding", "image_size": 8, "patch_size": 2, "channels": 1},
    "head": {"op": "classifier", "num_classes": 10},
    "stages": [{"num_blocks": 1}],
    "blocks": {
        "mixer": {"op": "pooling", "window": 3},
        "ffn": {"op": "mlp", "d_ff": [16, 32], "activation": "relu"},
        "norm": "layernorm",
    },
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_front_and_folder_tell_the_latency_of_the_runtime(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path / 'nas.db'}"
    alone = OptimizerSettings(steps=4, warmup_steps=1)
    recipe = Recipe(
        "images", searcher="random", quality="train", alone=alone, beat_baseline=False, finalists=1
    )
    result = nas.search(
        space=resolve(IMAGES), objectives=["loss", "latency"], recipe=recipe, trials=2, study="s", db=db
    )
    assert result.study.runtime == "onnxruntime"
    rows = front_json(result, db)
    assert {row["latency"]["runtime"] for row in rows if row["latency"]["measured"]} == {"onnxruntime"}
    with closing(Store(db)) as store:
        assert {m.implementation for m in store.measurements(quantity="latency")} == {"onnxruntime"}
    done = extract("s", tmp_path / "out", db=db, select=Selection(rows[0]["number"]))
    (written,) = (e for e in done.exports if e.format == "onnx")
    assert (tmp_path / "out" / written.file).is_file()
    assert written.latency is not None
    assert done.numbers["measured_latency"] == written.latency.value
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["numbers"]["measured_latency"] == written.latency.value
    assert config["about"]["runtime"] == "onnxruntime"


@pytest.mark.parametrize(
    ("space", "runtime"), [("tiny-vision", "onnxruntime"), ("encoder", "onnxruntime"), ("tiny-lm", "eager")]
)
def test_encoders_and_images_are_of_onnxruntime_where_nothing_else_is_asked_for(
    space: str, runtime: str
) -> None:
    assert plan(load_space(space), Recipe(space), ["parameters", "latency"]).runtime == runtime
    asked = Recipe(space, runtime="eager")
    assert plan(load_space(space), asked, ["parameters", "latency"]).runtime == "eager"


def test_number_formats_stay_eager_and_say_so_unless_onnxruntime_was_asked_for() -> None:
    blocks = {**IMAGES["blocks"], "quant": {"up_gate": ["native", "int8_dynamic"]}}
    space = resolve({**IMAGES, "blocks": blocks})
    study = plan(space, Recipe("images"), ["parameters", "latency"])
    assert study.runtime == "onnxruntime"
    settled = in_runtime(study, space)
    assert settled.runtime == "eager"
    assert "number formats" in settled.settings.why_eager
    asked = plan(space, replace(Recipe("images"), runtime="onnxruntime"), ["parameters", "latency"])
    with pytest.raises(UsageError, match=r"--runtime onnxruntime.*number formats.*eager"):
        in_runtime(asked, space)


def test_an_export_is_said_before_it_begins(tmp_path: Path) -> None:
    """It comes before there is a study, and the first one of a space takes a while."""
    heard = []

    def on_step(step: Step) -> None:
        heard.append(step.name)
        raise KeyboardInterrupt

    asked = {
        "space": resolve(IMAGES),
        "objectives": ["parameters", "latency"],
        "db": f"sqlite:///{tmp_path}/s.db",
    }
    with pytest.raises(KeyboardInterrupt):
        searched(SearchRequest.of(asked | {"hooks": Hooks(on_step=on_step)}))
    (name,) = heard
    assert "onnxruntime" in name


def test_int8_is_offered_where_it_has_a_kernel_unless_the_space_says_its_formats_itself() -> None:
    space = resolve(IMAGES)
    offered = with_int8(space)
    assert [d.formats.values for s in offered.stages for b in s.blocks for _, d in b.quant] == [
        ("native", "int8_onnx")
    ]
    own = resolve({**IMAGES, "blocks": {**IMAGES["blocks"], "quant": {"maps": ["native"]}}})
    assert with_int8(own) == own
    study = replace(plan(space, Recipe("images"), ["parameters", "latency"]), space=offered.to_json())
    assert without_int8(study, space).space == space.to_json()
    assert without_int8(study, offered) == study
