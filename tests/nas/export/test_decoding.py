"""A decoder's step in onnxruntime gives, token by token, the logits of one forward pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.errors import ArtifactError
from nas.evaluation.inherited import quality
from nas.export import formats
from nas.export.folder import run_alone, state_exports, write_folder
from nas.export.onnx_file import session
from nas.export.proof import STEPS, proven_steps
from nas.tasks.base import Batch
from searchspace.model import Model
from searchspace.spec.arch import OpSpec
from tests.nas.export.test_formats import BLOCK, SHORT, ids, llama, trained_like

HEADS = {"num_groups": 1, "heads_per_group": 2, "head_dim": 8}
WINDOWED = OpSpec.of("softmax_attention", **dict(BLOCK.mixer.items) | {"window": 7, "sinks": 2})
GATED = OpSpec.of("gated_linear_attention", **HEADS, init_rank=2)
DELTA = OpSpec.of("deltanet", **HEADS, conv_taps=4, beta_max=2)


def network(*mixers: OpSpec) -> Model:
    model = trained_like(llama(*(replace(BLOCK, mixer=mixer) for mixer in mixers)))
    for name, tensor in model.named_parameters():
        if "init" in name:
            tensor.normal_()  # a state before the first token that is not 0
    return model


@pytest.mark.slow
def test_caches_windows_and_recurrent_states_decode_in_onnxruntime_and_write_text(tmp_path: Path) -> None:
    """Windows and sinks, a learned first state, a delta rule with convolutions, all keys; also the int8 of each."""
    model, batches = network(WINDOWED, GATED, DELTA, BLOCK.mixer), [Batch(ids(), ids().roll(-1, 1))]
    loss = quality(model, batches)["loss"]
    write_folder(tmp_path, model, batches, {"loss": loss}, {"study": "s"})
    exports = formats.write_exports(tmp_path, model, ["onnx-int8"], batches, SHORT)
    state_exports(tmp_path, model, exports)
    _, whole, step, int8, _ = exports
    assert [e.file for e in exports[1:]] == [
        "model.onnx",
        "decode.onnx",
        "model.int8.onnx",
        "decode.int8.onnx",
    ]
    assert (whole.length, whole.limits, step.decoded) == (None, (), 64)
    assert max(whole.difference, step.difference) < 1e-3
    inputs = {i.name for i in session(tmp_path / "decode.onnx").get_inputs()}
    assert {"input_ids", "past_length", "past.blocks.3@0.mixer.k"} <= inputs
    assert int8.quality["float_loss"] == pytest.approx(loss, abs=1e-5)
    assert int8.quality["loss"] == pytest.approx(loss, abs=0.3)
    assert int8.quality["cosine"] > 0.98
    assert int8.latency is not None
    assert whole.latency is not None
    given = ("--length", "70", "--temperature", "1e-9")
    result = run_alone(tmp_path, "To be", *given, script=formats.RUN_ONNX)
    assert result["loss"] == pytest.approx(loss, abs=1e-4)
    assert result["text"] == run_alone(tmp_path, "--prompt", "To be", *given)["text"]
    result = run_alone(tmp_path, *given, "--file", int8.file, script=formats.RUN_ONNX)
    assert result["loss"] == pytest.approx(int8.quality["loss"], abs=0.05)


def test_logits_of_a_step_that_differ_are_refused_with_the_token(tmp_path: Path) -> None:
    model, seen = network(BLOCK.mixer), list[torch.Tensor]()

    def step(token: torch.Tensor) -> torch.Tensor:
        seen.append(token)
        logits: torch.Tensor = model(torch.cat(seen, 1))[0][:, -1:]
        return logits + (len(seen) > 20)

    with pytest.raises(ArtifactError, match=r"decode\.onnx: logits of token 20 differ"):
        proven_steps(tmp_path / "decode.onnx", model, step, ids())
    assert len(seen) == 21 <= STEPS
