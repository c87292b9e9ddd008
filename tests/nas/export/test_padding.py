"""An exported encoder computes a padded text as if it were alone, and runs from text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nas.errors import ArtifactError
from nas.export import formats
from nas.export.folder import run_alone, state_exports, write_folder
from nas.export.graph import given, padded, trace, write_program
from nas.export.onnx_file import session, write_onnx
from nas.export.proof import proven
from nas.tasks.base import Batch
from searchspace.contracts import cases
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload

WORDS = ("[UNK]", "a", "cat", "sat", "on", "the", "mat", "dog")
LENGTH = 12


def encoder(mixer: OpSpec | None = None, pooling: str = "mean", position: str = "rope") -> Model:
    rope = OpSpec.of("rope", base=10000, dim=8)
    arch = ArchSpec(
        task="embedding",
        stem=OpSpec.of("token_embedding", vocab_size=len(WORDS), max_len=LENGTH),
        d_model=8,
        blocks=(
            BlockSpec(mixer or plain_attention(1, 2, 8), OpSpec.of("swiglu", d_ff=8), OpSpec("rmsnorm")),
        ),
        stages=(StageSpec(1, 8),),
        head=OpSpec.of("embedding", pooling=pooling, normalize=True),
        position=rope if position == "rope" else OpSpec(position),
        final_norm=OpSpec("rmsnorm"),
    )
    torch.manual_seed(3)
    model = Model(arch).requires_grad_(False).eval()
    for tensor in model.parameters():
        tensor.mul_(2.0)
    return model


def texts(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(1, len(WORDS), (4, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("pooling", "output"), [("mean", "sentence_embedding"), ("none", "last_hidden_state")]
)
def test_a_padded_text_is_computed_as_if_it_were_alone(tmp_path: Path, pooling: str, output: str) -> None:
    model, inputs = encoder(pooling=pooling), texts()
    graph = trace(model, inputs)
    assert (graph.inputs, graph.output, graph.length) == (("input_ids", "attention_mask"), output, None)
    run, mask = write_program(graph, tmp_path / "model.pt2"), padded(inputs)
    assert sorted(mask.sum(1).tolist()) == [1, 4, 8, 12]
    for i, count in enumerate(mask.sum(1).tolist()):
        alone = model(inputs[i : i + 1, :count])[0]
        found = run(inputs, mask)[i : i + 1]
        torch.testing.assert_close(found if pooling == "mean" else found[:, :count], alone)
    assert not torch.allclose(run(inputs), run(inputs, mask), atol=0.05)  # what no mask would give


@pytest.mark.parametrize("learns", [False, True])
@torch.no_grad()
def test_attention_with_a_bias_is_written_as_onnx_whether_it_learns_or_not(
    tmp_path: Path, learns: bool
) -> None:
    """A bias that takes gradients has another form of attention where they are on, and a file has none."""
    table = OpSpec.of("relative_table", num_buckets=8)
    plain = plain_attention(2, 1, 8)
    model = encoder(OpSpec.of(plain.op, **(dict(plain.items) | {"score_bias": table}))).requires_grad_(learns)
    inputs = texts()
    with torch.enable_grad():
        graph = trace(model, inputs)
        run = write_onnx(graph, inputs, tmp_path / "model.onnx")
    mask = padded(inputs)
    torch.testing.assert_close(
        run(inputs, mask), model(inputs, Tokens(valid=mask != 0))[0], rtol=1e-4, atol=1e-4
    )


def test_a_file_that_forgets_its_mask_is_refused(tmp_path: Path) -> None:
    model, inputs = encoder(), texts()
    graph = trace(model, inputs)
    with pytest.raises(ArtifactError, match=r"model\.onnx: outputs differ"):
        proven(tmp_path / "model.onnx", model, lambda x, mask=None: model(x)[0], inputs, graph)


def test_a_file_that_is_wrong_at_another_length_is_refused(tmp_path: Path) -> None:
    model, inputs = encoder(), texts(LENGTH - 3)

    def run(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        valid = None if mask is None else mask != 0
        found: torch.Tensor = model(x, Tokens(valid=valid))[0]
        return found if x.shape[1] <= LENGTH - 3 else -found

    with pytest.raises(ArtifactError, match="outputs differ"):
        proven(tmp_path / "model.onnx", model, run, inputs, trace(model, inputs))


def test_a_graph_of_one_length_takes_shorter_texts_behind_a_mask() -> None:
    """Blocks of four tokens are as many as the length says."""
    mixer = OpSpec.of("block_local_attention", num_groups=1, heads_per_group=2, head_dim=8, window=4)
    model, inputs = encoder(mixer), texts()
    graph = trace(model, inputs)
    assert graph.length == LENGTH
    short = inputs[:, :5].contiguous()
    found = graph.program.module()(*given(graph, short).values())
    torch.testing.assert_close(found, model(short)[0])


@pytest.mark.slow
def test_onnxruntime_takes_padding_and_the_folder_reads_text_without_torch(tmp_path: Path) -> None:
    model, inputs = encoder(), texts()
    mask = padded(inputs)
    targets = model(inputs, Tokens(valid=mask != 0))[0]
    batch = Batch(inputs, F.normalize(targets + 0.1, dim=-1), mask != 0)
    loss = float((1 - F.cosine_similarity(targets, batch.targets, dim=-1)).mean())
    write_folder(tmp_path, model, [batch], {"loss": loss}, {"study": "s", "trial": 1, "model": "m"})
    exports = formats.write_exports(tmp_path, model, ["onnx"], [batch], Workload(seq_len=LENGTH))
    state_exports(tmp_path, model, exports)
    file = session(tmp_path / "model.onnx")
    assert [i.name for i in file.get_inputs()] == ["input_ids", "attention_mask"]
    assert [o.name for o in file.get_outputs()] == ["sentence_embedding"]
    words = {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)}, "unk_token": "[UNK]"}
    tokenizer = {
        "version": "1.0",
        "model": words,
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "torch.py").write_text(
        "raise ImportError('torch')"
    )  # found first: the folder is the script's
    result = run_alone(tmp_path, "a cat sat on the mat", "dog", script=formats.RUN_ONNX)
    assert result["loss"] == pytest.approx(loss, abs=1e-5)
    one, other = (model(torch.tensor([ids]))[0][0] for ids in ([1, 2, 3, 4, 5, 6], [7]))
    assert result["cosines"][0][1] == pytest.approx(float(one @ other), abs=1e-5)


@pytest.mark.parametrize("mixer", ["omega", "gated_linear_attention"])
def test_the_number_of_texts_is_free_with_states_that_start_for_each(mixer: str) -> None:
    """A part that asks for the number of its sequences as a plain number would fix it to that of the examples."""
    case = next(c for c in cases.quick("mixer", causal=True) if c.spec.op == mixer)
    spec = OpSpec.of(mixer, **dict(case.spec.items) | ({"init_rank": 2} if "gated" in mixer else {}))
    arch = cases.network(replace(case, spec=spec))
    arch = replace(arch, blocks=arch.blocks[:1], stages=arch.stages[:1])
    model, inputs = Model(arch).requires_grad_(False).eval(), torch.randint(16, (4, 16))
    module = trace(model, inputs).program.module()
    torch.testing.assert_close(module(inputs[:3]), model(inputs[:3])[0], rtol=1e-4, atol=1e-4)
