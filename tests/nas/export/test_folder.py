"""An extracted folder runs alone, computes what the model computes, and refuses damaged weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nas.errors import UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.export.closure import foreign_imports, modules_of
from nas.export.folder import write_folder
from nas.extraction import compare
from nas.tasks.load import load_task
from searchspace.fold import fold
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet

BLOCKED = ("nas", "searchspace", "proxies", "predictors", "studies", "safetensors", "numpy")
RUN_BLOCKED = """
import runpy, sys
for name in {blocked}:
    sys.modules[name] = None
sys.argv = ["run.py"]
runpy.run_path("run.py", run_name="__main__")
"""


def judge_of(space_name: str) -> tuple[InheritedQuality, list[ArchSpec]]:
    space = load_space(space_name)
    task = load_task(space.data, stem=space.stem, head=space.head)
    judged = InheritedQuality.of(Supernet(space, seed=3), task, num_examples=32, batch_size=16)
    return judged, sample(Encoding(space), 30, 0, Workload())


@pytest.mark.parametrize("space_name", ["tiny-lm", "tiny-vision"])
def test_the_folder_alone_gives_the_stated_loss(space_name: str, tmp_path: Path) -> None:
    judged, archs = judge_of(space_name)
    arch = next(a for a in archs if space_name == "tiny-lm" or any(b.norm.op == "repbn" for b in a.blocks))
    model = judged.network(arch, copy=True)
    numbers = quality(model, judged.validation)
    folder = write_folder(tmp_path / "out", model, judged.validation, numbers, {"study": "s", "trial": 1})
    code = RUN_BLOCKED.format(blocked=BLOCKED)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["loss"] == pytest.approx(numbers["loss"], abs=1e-5)
    assert ("text" if space_name == "tiny-lm" else "class") in result


@pytest.mark.parametrize("space_name", ["tiny-lm", "tiny-vision"])
def test_an_extracted_network_needs_torch_and_the_standard_library_only(space_name: str) -> None:
    _, archs = judge_of(space_name)
    for arch in archs:
        assert foreign_imports(modules_of(arch)) == {"torch"}


def test_the_closure_holds_the_operators_in_use_and_no_others() -> None:
    _, archs = judge_of("tiny-lm")
    for arch in archs[:8]:
        mixers = {b.mixer.op for b in arch.blocks}
        modules = {m.rsplit(".", 1)[-1] for m in modules_of(arch)}
        for name in ("softmax_attention", "gated_linear_attention", "pooling"):
            assert (name in modules) == (name in mixers)


def test_folding_changes_nothing_but_the_operators() -> None:
    judged, archs = judge_of("tiny-vision")
    inputs = judged.validation[0].inputs.double()
    folded = 0
    for arch in archs:
        model = judged.network(arch, copy=True).double()
        simpler = fold(model)
        folded += simpler is not model
        with torch.inference_mode():
            torch.testing.assert_close(simpler(inputs)[0], model(inputs)[0], rtol=1e-10, atol=1e-12)
        assert "repbn" not in simpler.arch.canonical
    assert folded > 0


def test_the_difference_to_the_supernet_is_that_of_rounding() -> None:
    judged, archs = judge_of("tiny-vision")
    for arch in archs[:5]:
        assert compare(judged.supernet, judged.network(arch, copy=True), judged.validation[0].inputs) < 1e-5


def test_the_vendored_reader_reads_what_safetensors_writes(tmp_path: Path) -> None:
    weights = _reader()
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "empty": torch.empty(0, 2),
        "half": torch.randn(2, 3).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }
    save_file(tensors, tmp_path / "w.safetensors")
    for name, tensor in weights.load(tmp_path / "w.safetensors").items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.dtype == tensors[name].dtype


def test_the_vendored_reader_refuses_a_file_that_was_cut_off(tmp_path: Path) -> None:
    weights = _reader()
    save_file({"a": torch.randn(30)}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    for length in (3, 20, len(content) - 8):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut off|not a safetensors"):
            weights.load(tmp_path / "cut.safetensors")


def test_a_folder_that_is_not_empty_is_not_overwritten(tmp_path: Path) -> None:
    judged, archs = judge_of("tiny-lm")
    (tmp_path / "precious").write_text("mine")
    model = judged.network(archs[0], copy=True)
    with pytest.raises(UsageError, match="not empty"):
        write_folder(tmp_path, model, judged.validation, {}, {})
    assert (tmp_path / "precious").read_text() == "mine"


def _reader() -> Any:
    """The template as a module of its own, as an extracted folder has it."""
    import importlib.util
    from importlib.resources import files

    path = str(files("nas.export").joinpath("templates", "weights.py"))
    spec = importlib.util.spec_from_file_location("weights_template", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
