"""Linearizing: what is copied computes the same where it has to, and only what a route names is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.cli.main import main
from nas.errors import UsageError
from nas.evaluation.inherited import quality
from nas.export.folder import read_folder, write_folder
from nas.linearize.lora import low_rank
from nas.linearize.pipeline import Settings, linearize, recover, write
from nas.linearize.routes import DELTA_RULES, PROJECTIONS, ROUTES, chosen_layers
from nas.linearize.source import Source, read_model
from nas.linearize.transfer import attention_weights, errors, replaced, transfer
from nas.setup.preparation import Step
from nas.tasks.base import Batch
from nas.tasks.text import user_text
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import INACTIVE, NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from tests.nas.importing.test_families import GROUPED, TEXT
from tests.nas.importing.test_search import brought_in, text

ATTENTION = plain_attention(2, 2, 4)
BLOCK = BlockSpec(ATTENTION, OpSpec.of("swiglu", d_ff=24), OpSpec("rmsnorm"))
LENGTH = 16
BLOCKS = (BLOCK, replace(BLOCK, mixer=OpSpec.of("pooling", window=3)), INACTIVE, BLOCK)


def network(*blocks: BlockSpec, task: str = "causal_lm") -> Model:
    arch = ArchSpec(
        task=task,
        stem=OpSpec.of("token_embedding", vocab_size=256, max_len=LENGTH),
        d_model=16,
        blocks=blocks,
        stages=(StageSpec(len(blocks), 16),),
        head=OpSpec.of("lm_head", vocab_size=256),
        position=OpSpec.of("rope", base=10000, dim=8),
        final_norm=OpSpec("rmsnorm"),
    )
    torch.manual_seed(1)
    return Model(arch).requires_grad_(False).eval()


def source(tmp_path: Path, model: Model) -> Source:
    words = b"the quick brown fox jumps over the lazy dog; and then it sleeps. "
    (tmp_path / "text.txt").write_bytes(words * 40)
    return Source("net", model, user_text(str(tmp_path / "text.txt"), LENGTH), "")


def ids(rows: int = 3, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(256, (rows, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("length", [1, LENGTH])
def test_lolcats_with_a_window_over_the_whole_sequence_is_the_teacher(length: int) -> None:
    """Also with random features and gates, since no key is older than the window."""
    teacher = network(*BLOCKS)
    student = replaced(teacher, [0, 3], ROUTES["lolcats"], window=LENGTH).double()
    for name, tensor in student.named_parameters():
        if name.endswith(("_features", "window_gate")):
            tensor.normal_()
    expected = teacher.double()(ids(length=length))[0]
    torch.testing.assert_close(student(ids(length=length))[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("route", list(ROUTES))
def test_a_student_holds_the_teachers_tensors_and_starts_finite(route: str) -> None:
    teacher = network(*BLOCKS)
    student = replaced(teacher, [0], ROUTES[route], window=4)
    held, kept = student.state_dict(), teacher.state_dict()
    names = {new: old for new, old in ROUTES[route].projections.items() if new != old}
    moved = {f"blocks.0.mixer.{name}.weight" for name in names.values()}
    assert all(torch.equal(held[name], tensor) for name, tensor in kept.items() if name not in moved)
    assert set(kept) - set(held) == moved
    assert set(held) - set(kept) == {
        f"blocks.0.mixer.{n}" for n in (*ROUTES[route].fitted, *(f"{name}.weight" for name in names))
    }
    assert student.arch.blocks[1:] == teacher.arch.blocks[1:]
    logits = student(ids())[0]
    assert logits.isfinite().all()
    assert not torch.equal(logits, teacher(ids())[0])


def test_mamba2_starts_as_attention_without_softmax_read_as_a_state_space() -> None:
    """C the query, B the key and u the value of each of the two heads of a group, before silu; W_o below the gate."""
    teacher = network(BLOCK)
    attention = teacher.part("blocks.0").mixer
    mixer = replaced(teacher, [0], ROUTES["mamba2"], window=4).part("blocks.0").mixer
    x = torch.randn(2, LENGTH, 16)
    q, k, v = attention.queries_keys_values(x)
    u, B, C = (conv(proj(x), Tokens())[0].unflatten(-1, (4, 4)) for _, proj, conv in mixer.paths())
    torch.testing.assert_close(
        C, q
    )  # not bit by bit: a processor may sum products of other shapes in another order
    for head in range(4):
        torch.testing.assert_close(B[:, :, head], k[:, :, head // 2])
        torch.testing.assert_close(u[:, :, head], v[:, :, head // 2])
    torch.testing.assert_close(mixer.ssd_down_proj(x), attention.o_proj(x))


@pytest.mark.parametrize("route", list(ROUTES))
def test_a_student_decodes_token_by_token_what_it_computes_at_once(route: str) -> None:
    """Rotary positions reach the features of a route in both forms; recurrences know order without them."""
    student = replaced(network(*BLOCKS), [0, 3], ROUTES[route], window=4).double()
    expected, state = student(ids(1))[0], student.init_state(1, dtype=torch.float64)
    steps = []
    for token in ids(1).split(1, dim=1):
        logits, state = student(token, state=state)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-9, atol=1e-10)
    without = replace(student.arch, position=NONE)
    moved = Model.from_weights(without, student.state_dict()).eval()(ids(1))[0]
    assert torch.allclose(moved, expected) == (route in (*DELTA_RULES, "mamba2"))


@pytest.mark.parametrize("padded", [False, True])
def test_the_attention_weights_are_those_that_the_layer_uses(padded: bool) -> None:
    teacher = network(BLOCK).double()
    module, x = teacher.part("blocks.0").mixer, torch.randn(2, LENGTH, 16, dtype=torch.float64)
    valid = torch.arange(LENGTH) < torch.tensor([[LENGTH], [9]]) if padded else None
    _, tokens = teacher.part("position")(x, Tokens(valid=valid, positions=torch.arange(LENGTH)))
    weights, v = attention_weights(module, x, tokens), module.queries_keys_values(x)[2]
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    y = module.merge_heads(torch.einsum("bgrij,bjgv->bigrv", weights, v).flatten(2, 3))
    torch.testing.assert_close(y, module(x, tokens)[0], rtol=1e-12, atol=1e-12)


def test_the_divergence_of_attention_weights_is_zero_where_they_are_equal() -> None:
    """Keys of length 0 make both attentions uniform: softmax of equal scores, and features that are all the same."""
    teacher = network(BLOCK)
    for name in ("k_proj", "q_proj"):
        teacher.get_parameter(f"blocks.0.mixer.{name}.weight").zero_()
    student = replaced(teacher, [0], ROUTES["hedgehog"], window=4)
    (error,) = errors(teacher, student, [0], ROUTES["hedgehog"], Batch(ids(), ids())).values()
    assert float(error) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("route", ["hedgehog", "lolcats", "kda", "mamba2"])
def test_transfer_lowers_every_layers_error_and_trains_what_the_route_names(
    route: str, tmp_path: Path
) -> None:
    teacher = network(*BLOCKS)
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    student, task = replaced(teacher, [0, 3], ROUTES[route], window=2), source(tmp_path, teacher).task
    (batch,) = task.validation(8, 8)
    start = {name: t.clone() for name, t in student.state_dict().items()}
    copied = errors(teacher, student, [0, 3], ROUTES[route], batch)
    transfer(teacher, student, [0, 3], ROUTES[route], task, 30, 8, lambda step: None)
    fitted = errors(teacher, student, [0, 3], ROUTES[route], batch)
    assert all(float(fitted[i]) < float(copied[i]) for i in (0, 3))
    changed = {n for n, t in student.state_dict().items() if not torch.equal(t, start[n])}
    assert changed == {f"blocks.{i}.mixer.{name}" for i in (0, 3) for name in ROUTES[route].fitted}
    assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())
    assert not any(p.requires_grad for p in student.parameters())


def test_low_rank_updates_start_at_nothing_and_end_in_the_weights() -> None:
    model = network(BLOCK)
    names, logits = list(model.state_dict()), model(ids())[0]
    path = "blocks.0.mixer.q_proj"
    weight = model.get_parameter(f"{path}.weight").clone()
    with low_rank(model, [path], rank=2, alpha=6.0) as (A, B):
        assert torch.equal(model(ids())[0], logits)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert {id(p) for p in trained} == {id(A), id(B)}
        with torch.no_grad():
            B.normal_()
        expected = weight + 3.0 * B @ A
        inside = model(ids())[0]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model.get_parameter(f"{path}.weight").data, expected.detach())
    torch.testing.assert_close(model(ids())[0], inside)
    assert not any(p.requires_grad for p in model.parameters())


def test_the_seed_alone_decides_what_recovery_trains(tmp_path: Path) -> None:
    given = source(tmp_path, network(BLOCK))

    def recovered(seed: int) -> dict[str, torch.Tensor]:
        student = replaced(given.model, [0], ROUTES["liger"], window=4)
        settings = Settings(recovery_steps=2, batch_size=2, seed=seed)
        recover(given, student, [0], PROJECTIONS, settings, lambda step: None)
        return student.state_dict()

    first, again, other = recovered(0), recovered(0), recovered(1)
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    changed = {n for n, t in first.items() if not torch.equal(other[n], t)}
    assert changed == {f"blocks.0.mixer.{n}_proj.weight" for n in "qkvo"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1", "--layers 1: layer 1 has the mixer pooling, not softmax_attention; layers that can: 0, 3"),
        ("0,9", "there is no layer 9, the network has layers 0 to 3"),
        ("first", "--layers first: give all, or numbers such as 0,2"),
    ],
)
def test_layers_that_can_not_be_linearized_are_refused_with_those_that_can(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        chosen_layers(text, network(*BLOCKS).arch, ROUTES["lolcats"])
    assert sentence in str(refused.value)


def test_attention_that_is_more_than_softmax_and_encoders_are_refused() -> None:
    normed = replace(BLOCK, mixer=OpSpec.of("softmax_attention", **{**dict(ATTENTION.items), "window": 4}))
    with pytest.raises(UsageError, match="layer 1 has attention with window 4, not 0; layers that can: 0"):
        chosen_layers("0,1", network(BLOCK, normed).arch, ROUTES["liger"])
    encoder = network(BLOCK, task="masked_lm").arch
    with pytest.raises(UsageError, match="lolcats is for causal networks, this one has the task masked_lm"):
        chosen_layers("all", encoder, ROUTES["lolcats"])
    assert chosen_layers("all", encoder, ROUTES["hedgehog"]) == [0]


def test_from_a_folder_to_a_folder(tmp_path: Path) -> None:
    """The losses stated are those of the networks, layer after layer; the folder runs alone and is read again."""
    model = network(*BLOCKS)
    given = source(tmp_path, model)
    validation = given.task.validation(8, 8)
    write_folder(tmp_path / "net", model, validation, {"loss": 0.0}, {"task": str(tmp_path / "text.txt")})
    found = read_model(tmp_path / "net")
    assert found.task.content_id == given.task.content_id
    heard: list[Step] = []
    settings = Settings(4, 4, batch_size=4, window=4, lengths=(8, 16))
    done = linearize(found, [0, 3], ROUTES["lolcats"], settings, heard.append)
    assert [s.name for s in heard if s.done == s.total] == [
        "attention transfer",
        "recovery",
        "measuring latency",
    ]
    assert [r.layer for r in done.layers] == [0, 3]
    assert set(done.losses) == {"teacher", "copied", "transferred", "recovered"}
    assert done.losses["transferred"] == done.layers[-1].loss_transferred
    one = replaced(found.model, [0], ROUTES["lolcats"], 4)
    assert done.layers[0].loss_copied == pytest.approx(quality(one, found.task.validation(256, 64))["loss"])
    assert all(r.teacher and r.student and not r.reason for r in done.latencies)
    write(found, ROUTES["lolcats"], done, tmp_path / "out")
    again, config = read_folder(tmp_path / "out")
    assert [b.mixer.op for b in again.arch.blocks] == ["lolcats", "pooling", "none", "lolcats"]
    assert config["numbers"]["loss"] == pytest.approx(done.losses["recovered"])


def test_a_folder_that_holds_no_network_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["linearize", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "neither a folder of `nas extract` nor of `nas import`" in capsys.readouterr().err
    assert main([*arguments, "--route", "nope"]) == 2
    assert "--route: unknown 'nope'; known: hedgehog, lolcats, liger" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(BLOCK)
    given = source(tmp_path, model)
    about = {"task": str(tmp_path / "text.txt")}
    write_folder(tmp_path / "net", model, given.task.validation(8, 8), {"loss": 0.0}, about)
    arguments = ["linearize", str(tmp_path / "net"), "--transfer-steps", "2", "--recovery-steps", "2"]
    assert main([*arguments, "--out", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["window"] == LENGTH // 4
    assert [r["length"] for r in found["latencies"]] == [64, 256, 1024, 4096]
    assert main([*arguments, "--out", str(tmp_path / "b"), "--route", "liger"]) == 0
    assert "after recovery" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "route"), [("LlamaForCausalLM", GROUPED, "lolcats"), ("BertModel", TEXT, "hedgehog")]
)
def test_a_pretrained_model_that_was_brought_in_is_linearized(
    name: str, config: dict[str, Any], route: str, tmp_path: Path
) -> None:
    """A decoder that predicts its own tokens, and an encoder that comes close to its own embeddings, padded texts."""
    given = read_model(brought_in(name, config, tmp_path), str(text(tmp_path / "text.txt")))
    layers = chosen_layers("all", given.model.arch, ROUTES[route])
    assert len(layers) == len(given.model.arch.blocks)
    settings = Settings(4, 4, batch_size=4, window=2, lengths=(8,))
    done = linearize(given, layers, ROUTES[route], settings, lambda step: None)
    assert done.losses["transferred"] != done.losses["copied"]
    write(given, ROUTES[route], done, tmp_path / "out")
    again = read_model(tmp_path / "out")
    assert again.task.content_id == given.task.content_id
