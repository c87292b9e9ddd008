"""A network cut out of a model is judged by what it recovers to, and that is what is handed over."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from nas.api import read
from nas.cli.main import main
from nas.evaluation.trained import TrainedQuality
from nas.extraction import extract
from nas.importing.load import Imported, imported
from nas.request.recipe import Recipe
from nas.selection import Selection
from nas.setup import imported_supernet
from nas.setup.fitting import FEWEST_STEPS, fitted, flops_of_example
from nas.setup.imported_supernet import pretrained_supernet
from nas.tasks.base import Task
from nas.tasks.load import load_task
from nas.training.recovery import Recovery, recovery_settings
from searchspace.spec.arch import NONE, ArchSpec, Format, QuantPolicy
from studies.fidelity import SHARES
from tests.nas.importing.test_families import GROUPED, TEXT
from tests.nas.importing.test_search import brought_in, text

RECIPE = Recipe("tiny", model="folder", validation_examples=16, batch_size=8, recovery_steps=8)


@dataclass(frozen=True)
class Inside:
    model: Imported
    task: Task
    data: Path
    folder: Path

    def judge(self) -> TrainedQuality:
        settings = recovery_settings(RECIPE.alone, RECIPE.recovery_steps)
        store, arch = pretrained_supernet(self.model.space, self.task, self.model), self.model.arch
        recovery = Recovery(store, arch, self.model.model, self.task, settings, "store")
        return TrainedQuality.of(self.task, RECIPE, 0, recovery=recovery)

    def without(self, *layers: int) -> ArchSpec:
        blocks = [
            replace(b, mixer=NONE, ffn=NONE) if i in layers else b
            for i, b in enumerate(self.model.arch.blocks)
        ]
        return replace(self.model.arch, blocks=tuple(blocks))


@pytest.fixture(
    scope="module", params=[("BertModel", TEXT), ("LlamaForCausalLM", GROUPED)], ids=lambda p: p[0]
)
def inside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Inside:
    path = tmp_path_factory.mktemp("model")
    name, config = request.param
    folder, data = brought_in(name, config, path), text(path / "text.txt")
    model = imported(folder)
    task = load_task(str(data), stem=model.space.stem, head=model.space.head, model=str(folder))
    return Inside(model, task, data, folder)


def test_a_network_without_a_layer_recovers(inside: Inside) -> None:
    judge, arch = inside.judge(), inside.without(1)
    inherited, recovered = judge.until(0.0)(arch), judge(arch)
    assert recovered["loss"] < inherited["loss"]
    assert not any(name.startswith("train_loss") for name in inherited)


def test_a_teacher_takes_no_memory_of_its_own(inside: Inside) -> None:
    recovery = inside.judge().recovery
    assert recovery is not None
    assert recovery.compares_hidden
    for name, tensor in recovery.teacher.state_dict().items():
        assert tensor.data_ptr() == recovery.supernet.tensors[name].data_ptr(), name


def test_a_recovery_goes_on_where_a_lower_rung_ended(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bit for bit as if it had never paused, by another process's objects."""
    arch = inside.without(0)
    climbed = {}
    for name, share in {"supernet": 0.0, **SHARES, "train": 1.0}.items():
        climbed[name] = inside.judge().until(share)(arch)  # begins anew, all that is kept is the file
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "second"))
    at_once = inside.judge()
    assert at_once(arch) == climbed["train"]
    assert at_once.until(SHARES["quarter"])(arch) == climbed["quarter"]


def test_judging_a_network_in_other_formats_takes_nothing_from_its_training(inside: Inside) -> None:
    judge, arch = inside.judge(), inside.without(1)
    in_int8 = QuantPolicy((("up", Format.of("int8")), ("down", Format.of("int8"))))
    twin = replace(arch, blocks=tuple(replace(b, quant=in_int8) if b.is_active else b for b in arch.blocks))
    whole = judge(arch)
    judge.until(SHARES["quarter"])(twin)
    with safe_open(judge.file_of(arch), "pt") as file:
        assert len(json.loads(file.metadata()["state"])["losses"]) == judge.steps
    assert judge(arch) == whole
    apart = inside.judge()(twin)["loss"] - whole["loss"]
    assert 0 < abs(apart) < 0.1


def test_a_lesson_takes_one_pass_of_the_teacher(inside: Inside) -> None:
    recovery = inside.judge().recovery
    assert recovery is not None
    passes = []
    for teacher in {recovery.teacher, getattr(inside.task, "teacher", recovery.teacher)}:
        teacher.register_forward_hook(lambda *_: passes.append(1))
    lesson = recovery.lesson(3)
    assert len(passes) == 1
    assert len(lesson.hidden) == len(inside.model.arch.blocks)
    batch = inside.task.batch(3, recovery.settings.batch_size, recovery.settings.seed)
    torch.testing.assert_close(lesson.batch.targets, batch.targets)


def test_the_model_itself_has_nothing_to_learn_from_itself(inside: Inside) -> None:
    judge, arch = inside.judge(), inside.model.arch
    if inside.task.kind == "embedding":
        assert judge(arch)["loss"] == judge.until(0.0)(arch)["loss"] == pytest.approx(0, abs=1e-5)
    else:  # while on a text its losses are not all its own
        assert judge(arch)["loss"] < judge.until(0.0)(arch)["loss"]


def test_what_becomes_worse_is_handed_over_as_it_began(inside: Inside) -> None:
    judge, arch = inside.judge(), inside.without(1)
    assert judge.recovery is not None
    began = judge.recovery.start(arch).eval()
    worse = judge.recovery.start(arch).eval()
    with torch.no_grad():
        for parameter in worse.parameters():
            parameter.copy_(torch.randn_like(parameter))
    kept = judge.recovery.better(arch, worse)
    for name, tensor in began.state_dict().items():
        assert torch.equal(tensor, kept.state_dict()[name]), name


def test_the_front_is_of_what_is_extracted(
    inside: Inside, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = f"sqlite:///{tmp_path}/nas.db"
    told = f"--model {inside.folder} --data {inside.data} --db {db} --study inside --runner local --json"
    goals = "--objectives accuracy,flops --trials 5 --recovery-steps 4 --picture="
    assert main(["search", *told.split(), *goals.split()]) == 0
    found = read("inside", db=db)
    assert found.study.quality == "train"
    trial = min(found.front, key=lambda t: t.values["flops"])
    made = extract("inside", tmp_path / "out", select=Selection(trial=trial.number), db=db)
    for name in ("accuracy", "loss"):
        assert made.numbers[name] == pytest.approx(trial.values[name], rel=1e-5)


def test_a_recovery_fits_the_time_of_its_study(inside: Inside) -> None:
    recipe = replace(Recipe("tiny", model=str(inside.folder)).settled(), minutes=1.0)
    short, long = (
        fitted(replace(recipe, minutes=m), inside.model.space, inside.task, "cpu") for m in (1e-4, 1e-2)
    )
    assert short.recovery_steps == FEWEST_STEPS <= long.recovery_steps
    assert short.alone.batch_size < long.alone.batch_size or short.recovery_steps < long.recovery_steps
    assert (
        fitted(replace(recipe, recovery_steps=5), inside.model.space, inside.task, "cpu").recovery_steps == 5
    )


def test_what_a_large_model_is_ordered_on_is_bounded_by_its_work(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, most = inside.model.arch, imported_supernet.CALIBRATION_BATCHES
    batch = 3 * imported_supernet.CALIBRATION_SIZE * flops_of_example(arch, inside.task)
    assert imported_supernet.calibration_batches(arch, inside.task) == most
    for flops, count in ((5.5 * batch, 5), (batch, imported_supernet.FEWEST_BATCHES)):
        monkeypatch.setattr(imported_supernet, "CALIBRATION_FLOPS", flops)
        assert len(imported_supernet.calibration(arch, inside.task)) == count
