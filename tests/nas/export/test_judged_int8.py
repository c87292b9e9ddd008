"""A network that was judged with maps in onnxruntime's int8 is handed over as the file that has just those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from nas.errors import ArtifactError, UsageError
from nas.evaluation.inherited import quality
from nas.export import formats
from nas.export.folder import as_stored, check_alone, state_exports, write_folder
from nas.export.int8 import check_as_judged
from nas.tasks.base import Batch
from searchspace.model import Model
from searchspace.quantization.apply import apply_policy, quantized_parts
from searchspace.spec.arch import Format, QuantPolicy
from searchspace.spec.space import MAPS
from tests.nas.export.test_formats import BLOCK, SHORT, ids, llama, trained_like

INT8 = QuantPolicy(tuple(sorted((role, Format.of("int8_onnx")) for role in MAPS)))
ARCH = llama(BLOCK, replace(BLOCK, quant=INT8))


def judged() -> Model:
    return apply_policy(trained_like(ARCH.unquantized), ARCH)


@pytest.mark.slow
def test_the_file_has_the_maps_and_the_quality_that_were_judged(tmp_path: Path) -> None:
    model, batches = judged(), [Batch(ids(), ids().roll(-1, 1))]
    loss = quality(model, batches)["loss"]
    write_folder(tmp_path, model, batches, {"loss": loss}, {"study": "s"})
    exports = formats.write_exports(tmp_path, model, ["onnx-int8"], batches, SHORT)
    state_exports(tmp_path, model, exports)
    own, file = exports
    assert (file.file, own.latency) == ("model.int8.onnx", None)
    assert file.latency is not None
    assert file.quality["loss"] == pytest.approx(file.quality["float_loss"], abs=1e-3)
    assert file.quality["float_loss"] == pytest.approx(loss, abs=1e-2)  # in other batches, so in other ranges
    assert file.quality["cosine"] > 0.999
    assert not (tmp_path / "model.onnx").exists()
    nodes = onnx.load(tmp_path / file.file).graph.node
    assert sum(n.op_type == "MatMulInteger" for n in nodes) == len(quantized_parts(ARCH)) == 7
    check_alone(tmp_path, loss)  # run.py and run_onnx.py, each by itself


def test_other_forms_of_it_are_refused_with_the_one_that_it_has() -> None:
    with pytest.raises(UsageError, match=r"--format onnx: .* use --format onnx-int8"):
        formats.check_formats(["onnx"], ARCH)
    formats.check_formats(["folder", "onnx-int8"], ARCH)


def test_a_file_that_does_something_else_is_no_artifact() -> None:
    check_as_judged(Path("m.onnx"), {"cosine": 0.9999})
    for cosine in (0.9, float("nan")):
        with pytest.raises(ArtifactError, match=r"m\.onnx"):
            check_as_judged(Path("m.onnx"), {"cosine": cosine})


def test_batches_are_judged_as_the_scripts_of_the_folder_read_them() -> None:
    """All padded to one length, cut at the size of the first; real tokens stay where they are."""
    lengths = (3, 5)
    batches = [
        Batch(torch.full((2, T), T), torch.full((2, T), T), torch.ones(2, T, dtype=torch.bool))
        for T in lengths
    ]
    stored = as_stored(batches)
    assert [b.inputs.shape for b in stored] == [(2, 5), (2, 5)]
    for before, after, T in zip(batches, stored, lengths, strict=True):
        assert after.valid is not None
        assert torch.equal(after.valid.sum(1), torch.tensor([T, T]))
        assert torch.equal(after.inputs[:, :T], before.inputs)
