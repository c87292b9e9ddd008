"""An extracted folder runs alone, computes what the model computes, and refuses damaged weights."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from nas.errors import ArtifactError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.export.closure import foreign_imports, modules_of
from nas.export.folder import read_folder, run_alone, write_folder
from nas.extraction import compare
from nas.tasks.base import Batch
from nas.tasks.load import load_task
from searchspace.fold import fold, fold_affine
from searchspace.load import load_space
from searchspace.model import Model
from searchspace.recalibration import set_statistics
from searchspace.sampling import sample
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from tests.nas.training.toy import CONTEXT, task
from tests.searchspace.archs import BLOCK, decoder

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


def folds_away(block: BlockSpec) -> bool:
    """Whether all that reads the norm's output are linear maps."""
    return (block.norm.op, block.placement) == ("repbn", "pre") and block.mixer.op.endswith("_attention")


@pytest.mark.parametrize("space_name", ["tiny-lm", "tiny-vision"])
def test_the_folder_alone_gives_the_stated_loss(space_name: str, tmp_path: Path) -> None:
    judged, archs = judge_of(space_name)
    arch = next(a for a in archs if space_name == "tiny-lm" or folds_away(a.blocks[0]))
    searched = judged.network(arch, copy=True)
    model = fold_affine(fold(searched), judged.validation[0].inputs)
    if space_name == "tiny-vision":
        assert model.arch.blocks[0].norm.op == "none"  # it is part of the maps behind it
    numbers = quality(searched, judged.validation)
    folder = write_folder(tmp_path / "out", model, judged.validation, numbers, {"study": "s", "trial": 1})
    code = RUN_BLOCKED.format(blocked=BLOCKED)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["loss"] == pytest.approx(numbers["loss"], abs=1e-5)
    assert ("text" if space_name == "tiny-lm" else "class") in result


def test_a_folder_keeps_to_the_longest_sequence_and_to_the_moment_of_the_training(tmp_path: Path) -> None:
    """It writes 200 bytes with a network of 8, and is in the middle of the turn of its norms."""
    heads = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4}
    block = replace(BLOCK, mixer=OpSpec.of("cosformer", **heads), norm=OpSpec.of("prepbn", share=0.5))
    text = OpSpec.of("token_embedding", vocab_size=256, max_len=CONTEXT)
    arch = replace(decoder(block), stem=text, head=OpSpec.of("lm_head", vocab_size=256))
    torch.manual_seed(0)
    model, validation = Model(arch).eval(), task(tmp_path).validation(8, 4)
    model.progress = 0.25
    set_statistics(model, [batch.inputs for batch in validation])
    stated = quality(model, validation)["loss"]
    folder = write_folder(tmp_path / "out", model, validation, {"loss": stated}, {})
    result = run_alone(folder)
    assert result["loss"] == pytest.approx(stated, abs=1e-5)
    assert len(result["text"]) > 100
    read = read_folder(folder)[0]
    assert quality(read, validation)["loss"] == stated
    assert read.max_len == CONTEXT
    with pytest.raises(ValueError, match=r"9 tokens.*cosformer.*8"):
        read(torch.zeros(1, CONTEXT + 1, dtype=torch.long))


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


@pytest.mark.parametrize("space_name", ["tiny-lm", "tiny-vision", "lm-hybrid", "encoder"])
def test_an_extracted_network_equals_the_supernet_in_every_bit(space_name: str) -> None:
    """In float64, on slices that are copies in another layout than the shared tensors; rtol = atol = 0."""
    judged, archs = judge_of(space_name)
    inputs = judged.validation[0].inputs[:4]
    for arch in archs[:4]:
        model = judged.network(arch, copy=True)
        compare(judged.supernet, model, inputs)
        double = Model.from_weights(arch, {n: t.double() for n, t in model.state_dict().items()}).eval()
        slices = {n: t.detach().double() for n, t in judged.supernet.weights(arch).items()}
        # torch chooses the form of a product by whether its factors may have gradients: the extracted network's may
        weights = {n: t.requires_grad_() for n, t in slices.items()}
        weights |= dict(double.named_buffers())
        with torch.inference_mode():
            exact = inputs.double() if inputs.is_floating_point() else inputs
            reference = functional_call(Model(arch).double().eval(), weights, (exact,))[0]
            torch.testing.assert_close(double(exact)[0], reference, rtol=0, atol=0)


def test_one_weight_that_differs_from_the_supernet_is_seen() -> None:
    judged, archs = judge_of("tiny-lm")
    model = judged.network(archs[0], copy=True).requires_grad_(False)
    model.part("head").proj.weight[0, 0] += 1e-6
    with pytest.raises(ArtifactError, match="logits differ from the supernet's by"):
        compare(judged.supernet, model, judged.validation[0].inputs)


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


def test_a_flipped_bit_is_refused_with_the_tensor_and_its_shape(tmp_path: Path) -> None:
    folder = _small_folder(tmp_path)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1  # the last tensor's last byte
    (folder / "model.safetensors").write_bytes(content)
    for message in (_refused(folder), _refused_alone(folder)):
        assert re.search(r"damaged: tensor \S+ of shape \[[\d, ]+\] does not hold what was written", message)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    folder = _small_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"stem.weight": torch.zeros(256, 7)}, folder / "model.safetensors")
    wanted = list(tensors["stem.weight"].shape)
    for message in (_refused(folder), _refused_alone(folder)):
        assert (
            f"tensor stem.weight: the file holds [256, 7], the network in config.json wants {wanted}"
            in message
        )


@pytest.mark.parametrize("more", [{}, {"extra": torch.zeros(3)}])
def test_a_tensor_too_few_or_too_many_is_refused_by_name(
    more: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = _small_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    first = next(iter(tensors))
    kept = tensors | more if more else {n: t for n, t in tensors.items() if n != first}
    save_file(kept, folder / "model.safetensors")
    name, have = ("extra", "[3], the network in config.json wants nothing") if more else (first, "nothing")
    assert f"tensor {name}: the file holds {have}" in _refused(folder)


def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    weights = _reader()
    for entry in (
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 20]},
        {"dtype": "F32", "shape": [-1, 3], "data_offsets": [0, 24]},
        {"dtype": "F99", "shape": [2, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [6], "data_offsets": [-24, 0]},
    ):
        header = json.dumps({"a": entry}).encode()
        (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
        with pytest.raises(ValueError, match="damaged: tensor a"):
            weights.load(tmp_path / "w")
    (tmp_path / "w").write_bytes(struct.pack("<Q", 2) + b"[]")
    with pytest.raises(ValueError, match="its header is no JSON object"):
        weights.load(tmp_path / "w")


def _small_folder(tmp_path: Path) -> Path:
    arch = sample(Encoding(load_space("tiny-lm")), 1, 0, Workload())[0]
    ids = torch.randint(256, (2, 64))
    folder = write_folder(tmp_path / "out", Model(arch), [Batch(ids, ids)], {"loss": 0.0}, {})
    assert read_folder(folder)[0].arch == arch
    return folder


def _refused(folder: Path) -> str:
    with pytest.raises(ArtifactError) as refused:
        read_folder(folder)
    return str(refused.value)


def _refused_alone(folder: Path) -> str:
    with pytest.raises(ArtifactError) as refused:
        run_alone(folder)
    return str(refused.value)


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
