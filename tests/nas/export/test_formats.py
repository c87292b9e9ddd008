"""Every form of a network computes what the network computes, or says in a sentence why it can't be had."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.errors import ArtifactError, UsageError
from nas.export import formats, proof
from nas.export.folder import read_folder, run_alone, state_exports, write_folder
from nas.export.graph import cut, given, trace
from nas.export.llama import why_not_llama
from nas.tasks.base import Batch
from searchspace.contracts import cases
from searchspace.load import load_space
from searchspace.model import Model
from searchspace.sampling import sample
from searchspace.spec.arch import INACTIVE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload

SHORT = Workload(seq_len=64)
ATTENTION = plain_attention(2, 2, 8)
BLOCK = BlockSpec(ATTENTION, OpSpec.of("swiglu", d_ff=24), OpSpec("rmsnorm"))


def llama(*blocks: BlockSpec) -> ArchSpec:
    return ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=256, max_len=64),
        d_model=16,
        blocks=blocks,
        stages=(StageSpec(len(blocks), 16),),
        head=OpSpec.of("lm_head", vocab_size=256),
        position=OpSpec.of("rope", base=10000, dim=16),
        final_norm=OpSpec("rmsnorm"),
    )


def trained_like(arch: ArchSpec) -> Model:
    """Weights whose logits have clear winners."""
    torch.manual_seed(1)
    model = Model(arch).requires_grad_(False).eval()
    for name, tensor in model.named_parameters():
        if "norm" not in name:
            tensor.mul_(2.0)
    return model


def ids(count: int = 4, length: int = 64) -> torch.Tensor:
    return torch.randint(256, (count, length), generator=torch.Generator().manual_seed(2))


def examples(inputs: torch.Tensor) -> list[Batch]:
    return [Batch(inputs, inputs)]


def proven(tmp_path: Path, model: Model, *names: str, inputs: torch.Tensor | None = None) -> formats.Export:
    exports = formats.write_exports(
        tmp_path, model, names, examples(ids() if inputs is None else inputs), SHORT
    )
    assert exports[0].format == "folder"
    assert all(
        e.latency is not None and e.latency.value > 0 for e in exports if not e.file.startswith("decode")
    )
    return next(e for e in exports if e.format == names[-1])


def test_a_llama_like_network_loads_in_transformers_with_the_same_logits_and_text(tmp_path: Path) -> None:
    """Heads narrower than the space's widest, grouped keys, and an unused block that is left out."""
    found = proven(tmp_path, trained_like(llama(BLOCK, INACTIVE, BLOCK)), "transformers")
    assert found.difference < 1e-4
    assert (found.decoded, found.agreed) == (64, 64)
    config = json.loads((tmp_path / "transformers" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_biases_and_a_tied_head_reach_transformers(tmp_path: Path) -> None:
    block = replace(BLOCK, projection=OpSpec.of("dense", bias=True))
    arch = replace(llama(block), head=OpSpec.of("tied_head", vocab_size=256))
    model = trained_like(arch)
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            tensor.normal_()
    assert proven(tmp_path, model, "transformers").difference < 1e-4


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        (
            (BLOCK, replace(BLOCK, ffn=OpSpec.of("mlp", d_ff=24, activation=OpSpec("gelu")))),
            "block 1 has the ffn mlp",
        ),
        (
            (BLOCK, replace(BLOCK, mixer=OpSpec.of("pooling", window=3)), BLOCK),
            "block 1 has the mixer pooling",
        ),
        ((BLOCK, INACTIVE, replace(BLOCK, ffn=OpSpec.of("swiglu", d_ff=32))), "block 2 differs from block 0"),
        ((replace(BLOCK, placement="peri"),), "block 0 is quantized or does not have its norms before"),
        ((BLOCK, replace(BLOCK, norm=OpSpec("layernorm"))), "block 1 has the norm layernorm"),
    ],
)
def test_what_is_no_llama_is_refused_naming_the_first_block(
    blocks: tuple[BlockSpec, ...], sentence: str
) -> None:
    arch = llama(*blocks)
    assert sentence in (why_not_llama(arch) or "")
    with pytest.raises(UsageError, match="--format transformers: block"):
        formats.check_formats(["onnx", "transformers"], arch)


def test_an_unknown_format_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="--format: unknown 'coreml'; known: folder, onnx"):
        formats.check_formats(["coreml"], llama(BLOCK))


def test_a_torch_program_takes_any_length_and_the_card_states_its_proof(tmp_path: Path) -> None:
    model, batch = trained_like(llama(BLOCK)), Batch(ids(), ids())
    write_folder(tmp_path, model, [batch], {"loss": 1.0}, {"study": "s", "trial": 3})
    windows = ids(4, 65)[:, :-1]  # rows as far apart as those of a text's windows
    exports = formats.write_exports(tmp_path, model, ["torch-export"], examples(windows), SHORT)
    assert (exports[-1].length, exports[-1].decoded, exports[-1].agreed) == (None, 64, 64)
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for shape in ((1, 64), (3, 7), (1, 100)):
        torch.testing.assert_close(loaded(ids(*shape)), model(ids(*shape))[0], rtol=1e-5, atol=1e-5)
    state_exports(tmp_path, model, exports)
    _, config = read_folder(tmp_path)
    assert [e["file"] for e in config["exports"]] == ["model.safetensors", "model.pt2"]
    card = (tmp_path / "README.md").read_text()
    assert "| model.pt2 | torch" in card
    assert "64 of 64 the same" in card


@pytest.mark.slow
def test_a_gated_recurrence_leaves_for_every_length(tmp_path: Path) -> None:
    mixer = OpSpec.of("gated_linear_attention", num_groups=1, heads_per_group=2, head_dim=8, init_rank=0)
    model = trained_like(llama(replace(BLOCK, mixer=mixer)))
    found = proven(tmp_path, model, "onnx")
    assert (found.length, found.limits) == (None, ())
    assert (found.decoded, found.agreed) == (64, 64)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for length in (7, 100):
        some = ids(3, length)
        logits = torch.from_numpy(session.run(None, {"input_ids": some.numpy()})[0])
        torch.testing.assert_close(logits, model(some)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_graph_whose_length_is_fixed_says_why_and_decodes_with_padding(tmp_path: Path) -> None:
    """The steps of Mamba's scan are as many as the length has binary digits."""
    case = next(c for c in cases.quick("mixer", causal=True) if c.spec.op == "mamba")
    model, inputs = Model(cases.network(case)).eval(), ids() % 16
    graph = trace(model, inputs)
    assert graph.length == 64
    assert "length" in graph.reason
    module = graph.program.module()
    found = proof.proven(tmp_path, model, lambda x: cut(module(*given(graph, x).values()), x), inputs, graph)
    assert found.decoded == found.agreed > 0


@pytest.mark.slow
def test_onnxruntime_computes_what_the_network_computes(tmp_path: Path) -> None:
    found = proven(tmp_path, trained_like(llama(BLOCK)), "onnx")
    assert found.difference < 1e-4
    assert (found.length, found.decoded, found.agreed) == (None, 64, 64)
    assert found.implementation.startswith("onnxruntime ")


@pytest.mark.slow
@pytest.mark.parametrize("space_name", ["tiny-lm", "lm-hybrid", "encoder", "tiny-vision"])
def test_networks_of_a_space_leave_as_graphs(space_name: str, tmp_path: Path) -> None:
    """Those of a sample that have an operator which none before them had."""
    space, seen = load_space(space_name), set[str]()
    inputs = torch.rand(4, 1, 8, 8) if space.task == "classification" else ids(4, space.stem["max_len"])
    for arch in sample(Encoding(space), 3, 1, Workload()):
        operators = {op for block in arch.blocks for op in (block.mixer.op, block.ffn.op)}
        if operators <= seen:
            continue
        seen |= operators
        model = Model(arch).requires_grad_(False).eval()
        out = tmp_path / arch.id
        out.mkdir()
        wanted, workload = ["onnx", "torch-export"], Workload(seq_len=inputs.shape[1])
        found = formats.write_exports(out, model, wanted, examples(inputs), workload)
        assert all(e.difference < 1e-3 for e in found)


def test_a_file_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trained_like(llama(BLOCK, BLOCK))
    run: Callable[[torch.Tensor], torch.Tensor] = lambda inputs: other(inputs)[0]  # noqa: E731
    monkeypatch.setattr(formats, "_write", lambda *_: run)
    with pytest.raises(ArtifactError, match="transformers: outputs differ from the extracted network's by"):
        formats.write_exports(tmp_path, trained_like(llama(BLOCK)), ["transformers"], examples(ids()), SHORT)


def test_a_greedy_step_may_differ_only_between_tokens_that_are_as_good_as_equal() -> None:
    model = trained_like(llama(BLOCK))

    def shifted(amount: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(inputs)[0].clone()
            second = logits.topk(2).indices[..., 1:]
            gap = logits.amax(-1, keepdim=True) - logits.gather(-1, second)
            return logits.scatter_add(-1, second, gap + amount)

        return run

    state = proof.greedy_steps(Path("f"), model, lambda x: model(x)[0], ids(1), None, 1e-4)
    assert state == (64, 64)
    with pytest.raises(ArtifactError, match="f: greedy step 0 gives token"):
        proof.greedy_steps(Path("f"), model, shifted(1.0), ids(1), None, 1e-4)
    assert proof.greedy_steps(Path("f"), model, shifted(1.0), ids(1), None, 1e9) == (64, 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler is here")
def test_a_compiled_network_is_proven_timed_as_it_lies_there_and_run_alone(tmp_path: Path) -> None:
    """One compilation serves all that its users ask of the file: it takes half a minute of a processor."""
    model, batch = trained_like(llama(BLOCK)), Batch(ids(), ids())
    write_folder(tmp_path, model, [batch], {"loss": 1.0}, {"study": "s", "trial": 3})
    folder, compiled = formats.write_exports(tmp_path, model, ["aotinductor"], [batch], SHORT)
    assert (compiled.file, compiled.length, compiled.inputs) == ("model.aoti.pt2", None, ("input_ids",))
    assert (compiled.decoded, compiled.agreed) == (64, 64)
    assert any("torch " in sentence for sentence in compiled.limits), "it says on what machines it runs"
    assert compiled.latency is not None
    assert folder.latency is not None
    assert (folder.latency.implementation, compiled.latency.implementation) == ("eager", "compiled")
    assert compiled.latency.software != folder.latency.software, "the compiler is part of what was measured"
    state_exports(tmp_path, model, [folder, compiled])
    plain, by_file = run_alone(tmp_path), run_alone(tmp_path, "--compiled")
    assert by_file["loss"] == pytest.approx(plain["loss"], abs=1e-5)
    assert by_file["text"] == plain["text"]
    (tmp_path / "model.aoti.pt2").unlink()
    with pytest.raises(ArtifactError, match=r"--compiled.*--format aotinductor"):
        run_alone(tmp_path, "--compiled")


def test_without_a_compiler_compiling_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"--format aotinductor.*'no-such-compiler'.*CXX"):
        formats.check_formats(["aotinductor"], llama(BLOCK))
    formats.check_formats(["onnx"], llama(BLOCK))
