"""Extracted folders from Python: beside each other, copied, pickled, in other number formats, exported."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nas.export.folder import write_folder
from nas.tasks.base import Batch
from searchspace.spec.arch import OpSpec
from tests.nas.export.test_formats import BLOCK, ids, llama, trained_like

GATED = OpSpec.of("gated_linear_attention", num_groups=1, heads_per_group=2, head_dim=8, init_rank=0)
POOLING = OpSpec.of("pooling", window=3)


def folder(path: Path, *mixers: OpSpec) -> Path:
    model = trained_like(llama(*(replace(BLOCK, mixer=mixer) for mixer in mixers)))
    return write_folder(path, model, [Batch(ids(), ids())], {"loss": 0.0}, {"study": path.name})


def loaded(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_folders_live_in_one_process(tmp_path: Path) -> None:
    one = loaded(folder(tmp_path / "one", GATED), "one")
    two = loaded(folder(tmp_path / "two", POOLING, BLOCK.mixer), "two")
    for run, mixers in ((one, [GATED]), (two, [POOLING, BLOCK.mixer])):
        model, _ = run.load_model()
        ours = trained_like(llama(*(replace(BLOCK, mixer=mixer) for mixer in mixers)))
        assert torch.equal(model(ids())[0], ours(ids())[0])
        assert not type(model).__module__.startswith("searchspace")
    assert not {"network", "weights"} & set(sys.modules)
    again, _ = loaded(tmp_path / "one", "again").load_model()
    assert type(again) is type(one.load_model()[0])  # the same code is one package


def test_a_network_is_copied_pickled_and_saved(tmp_path: Path) -> None:
    model, _ = loaded(folder(tmp_path / "net", GATED, BLOCK.mixer), "net").load_model()
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copies = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False))
    for other in copies:
        assert torch.equal(other(ids())[0], model(ids())[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_state_follows_the_numbers_of_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    model, _ = loaded(folder(tmp_path / "net", GATED, BLOCK.mixer), "net").load_model()
    model.to(dtype)
    whole, state = model(ids())[0], model.init_state(4)
    steps = []
    for t in range(4):
        logits, state = model(ids()[:, t : t + 1], state=state)
        steps.append(logits)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-9
    torch.testing.assert_close(torch.cat(steps, 1), whole[:, :4], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("token", [-1, 256])
def test_a_token_that_is_none_is_refused(tmp_path: Path, token: int) -> None:
    model, _ = loaded(folder(tmp_path / "net", POOLING), "net").load_model()
    with pytest.raises(ValueError, match=rf"{token}\D.*255"):
        model(torch.tensor([[0, token]]))


def test_run_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    net = folder(tmp_path / "net", POOLING)
    weights = net / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    done = subprocess.run([sys.executable, str(net / "run.py")], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("run.py: ")
    assert done.stderr.count("\n") == 1


def test_a_network_that_never_ran_is_exported_twice_and_runs(tmp_path: Path) -> None:
    """The positions' frequencies are first needed while it is traced."""
    model, _ = loaded(folder(tmp_path / "net", BLOCK.mixer), "net").load_model()
    for _ in range(2):
        program = torch.export.export(model, (ids(),))
        torch.testing.assert_close(program.module()(ids())[0], model(ids())[0])
