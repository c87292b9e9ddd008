"""A model that was brought in is searched with its own weights, and what is cut out is its slice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.api import read
from nas.cli.main import main
from nas.errors import ArtifactError, UsageError
from nas.importing.load import imported
from nas.setup.imported_supernet import pretrained_supernet
from nas.setup.preparation import artifact_folder
from nas.tasks.load import load_task
from nas.training.checkpoint import load_supernet
from nas.truth.trust import judge_of
from searchspace.load import load_space
from searchspace.spec.arch import ArchSpec
from searchspace.spec.handmade import ORIGINAL
from studies.store import Store
from tests.nas.importing.test_debertas import V3
from tests.nas.importing.test_families import GROUPED, IMAGE, TEXT, saved

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
]


def text(path: Path) -> Path:
    chosen = torch.randint(0, len(WORDS), (300, 6), generator=torch.Generator().manual_seed(0))
    path.write_text("\n".join(" ".join(WORDS[i] for i in row) for row in chosen.tolist()), encoding="utf-8")
    return path


def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    names = ["[UNK]", *WORDS, "[MASK]", "[CLS]", "[SEP]"]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return made


def enclosed(made: Any) -> Any:
    """The tokenizer of an encoder, with a token before and behind each text."""
    from tokenizers.processors import TemplateProcessing

    made.post_processor = TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A $B [SEP]", [(t, made.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    return made


def brought_in(name: str, config: dict[str, Any], folder: Path) -> Path:
    """An imported tiny model with a word tokenizer, by the command."""
    saved(name, config, folder / "theirs")
    tokenizer().save(str(folder / "theirs" / "tokenizer.json"))
    assert main(["import", str(folder / "theirs"), "--out", str(folder / "ours"), "--json"]) == 0
    return folder / "ours"


@pytest.mark.parametrize(
    ("name", "config", "steps"), [("BertModel", TEXT, 0), ("LlamaForCausalLM", GROUPED, 2)]
)
def test_a_search_inside_a_model_ends_in_a_front(
    name: str, config: dict[str, Any], steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, db = brought_in(name, config, tmp_path), f"sqlite:///{tmp_path}/nas.db"
    data = text(tmp_path / "text.txt")
    told = [
        "--model",
        str(folder),
        "--data",
        str(data),
        "--db",
        db,
        "--study",
        "inside",
        "--json",
        "--picture",
        "",
    ]
    goals = ["--objectives", "loss,flops", "--searcher", "random", "--trials", "6", "--runner", "local"]
    goals += ["--quality", "supernet", "--recovery-steps", str(steps)]
    assert main(["search", *told, *goals]) == 0
    capsys.readouterr()
    assert main(["front", "inside", "--db", db, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    _, judged = judge_of("inside", db)  # of `nas trust`
    for trial in read("inside", db=db).trials[:2]:
        assert judged(ArchSpec.from_json(trial.arch))["loss"] == pytest.approx(trial.values["loss"], rel=1e-5)
    model, store = imported(folder), Store(db)
    supernet = load_supernet(artifact_folder(store, "supernet", store.study("inside").supernet))
    store.close()
    inputs = torch.randint(0, len(WORDS), (2, 9))
    if not steps:
        whole = supernet.extract(model.arch)(inputs)[0]
        torch.testing.assert_close(whole, model.model()(inputs)[0], rtol=1e-4, atol=1e-5)


ENCODERS: list[tuple[str, dict[str, Any]]] = [
    ("BertForMaskedLM", TEXT),
    ("BertForSequenceClassification", TEXT | {"num_labels": 3}),
    ("BertForTokenClassification", TEXT | {"num_labels": 3}),
    ("DebertaV2ForSequenceClassification", V3 | {"num_labels": 3}),
    ("ViTForImageClassification", IMAGE | {"num_labels": 3, "num_channels": 1}),
]


@pytest.mark.parametrize(("name", "config"), ENCODERS)
def test_an_encoder_is_checked_searched_and_taken_out(
    name: str, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The whole model is a trial of the study and right where it judges itself, and run.py gives the same loss."""
    folder, db = brought_in(name, config, tmp_path), f"sqlite:///{tmp_path}/nas.db"
    enclosed(tokenizer()).save(str(folder / "tokenizer.json"))
    data = "digits" if name.startswith("ViT") else str(text(tmp_path / "text.txt"))
    space = folder / "space.toml"
    space.write_text(space.read_text().replace('data = "plays"', f'data = "{data}"'), encoding="utf-8")
    capsys.readouterr()
    assert main(["spaces", "check", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimated_seconds"]["one_training"] > 0
    told = ["--model", str(folder), "--data", data, "--db", db, "--study", "inside", "--json"]
    goals = ["--objectives", "accuracy,flops", "--searcher", "random", "--trials", "3", "--runner", "local"]
    assert main(["search", *told, *goals, "--recovery-steps", "2", "--picture", ""]) == 0
    whole = next(t for t in read("inside", db=db).trials if t.arch == imported(folder).arch.to_json())
    assert (whole.number, whole.origin) == (0, ORIGINAL)
    assert whole.values["accuracy"] == 1.0 or name == "BertForMaskedLM"
    out = tmp_path / "out"
    taken = ["extract", "inside", "--db", db, "--trial", str(whole.number), "--out", str(out), "--json"]
    assert main(taken) == 0  # which runs run.py and compares the loss


def test_the_store_of_a_narrower_space_holds_the_most_important_units(tmp_path: Path):
    folder = brought_in("BertModel", TEXT, tmp_path)
    space, data = folder / "space.toml", str(text(tmp_path / "text.txt"))
    wide = imported(folder)
    task = load_task(data, stem=wide.space.stem, head=wide.space.head, model=str(folder))
    whole = pretrained_supernet(wide.space, task, wide)
    lines = [
        line if "d_ff" not in line else line.replace(", 25, 30, 35, 40", "")
        for line in space.read_text().split("\n")
    ]
    space.write_text("\n".join(lines), encoding="utf-8")
    narrow = imported(folder)
    held = pretrained_supernet(narrow.space, task, narrow)
    name = "blocks.1.ffn.up_proj.weight"
    assert held.tensors[name].shape == (20, 24)
    assert torch.equal(held.tensors[name], whole.tensors[name][:20])


def test_a_window_that_no_judgement_sees_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = brought_in("LlamaForCausalLM", GROUPED | {"max_position_embeddings": 4096}, tmp_path)
    space = folder / "space.toml"
    assert "window = [0, 8, 32]" in space.read_text()  # of the 128 tokens that networks are judged on
    space.write_text(space.read_text().replace("window = [0, 8, 32]", "window = [0, 256]"))
    told = ["--model", str(folder), "--data", str(text(tmp_path / "text.txt")), "--trials", "1"]
    capsys.readouterr()
    assert main(["search", *told, "--db", f"sqlite:///{tmp_path}/nas.db"]) == 2
    assert "window = 256, but networks are judged on 128 tokens" in capsys.readouterr().err


def test_a_damaged_model_is_refused(tmp_path: Path):
    folder = brought_in("BertModel", TEXT, tmp_path)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
        imported(folder)


def test_text_for_a_model_without_a_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = brought_in("BertModel", TEXT, tmp_path)
    (folder / "tokenizer.json").unlink()
    capsys.readouterr()
    assert main(["search", "--model", str(folder), "--db", f"sqlite:///{tmp_path}/nas.db"]) == 2
    assert "no tokenizer.json" in capsys.readouterr().err


def test_a_proxy_for_embeddings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = brought_in("BertModel", TEXT, tmp_path)
    capsys.readouterr()
    assert (
        main(["search", "--model", str(folder), "--quality", "proxy", "--db", f"sqlite:///{tmp_path}/x.db"])
        == 2
    )
    assert "a proxy needs classes to predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("the of and to in is it you\n" * 40 + "\n" * 2000, "0 held out; give at least 4"),
        ("the of and to in is it you that he was " * 300, "1 lines for training and 1 held out"),
    ],
)
def test_text_with_too_few_lines_for_an_embedding_model_is_refused(
    content: str, complaint: str, tmp_path: Path
) -> None:
    folder = brought_in("BertModel", TEXT, tmp_path)
    (tmp_path / "text.txt").write_text(content)
    space = imported(folder).space
    with pytest.raises(UsageError, match=complaint):
        load_task(str(tmp_path / "text.txt"), stem=space.stem, head=space.head, model=str(folder))


@pytest.mark.parametrize(("name", "config"), [("BertModel", TEXT), ("LlamaForCausalLM", GROUPED)])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    folder = brought_in(name, config, tmp_path)
    space = imported(folder).space
    size = space.stem["vocab_size"]
    found = json.loads((folder / "tokenizer.json").read_text())
    found["model"]["vocab"]["the"] = size
    (folder / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(UsageError, match=f"token {size}, the model has {size}"):
        load_task(str(text(tmp_path / "text.txt")), stem=space.stem, head=space.head, model=str(folder))


def test_a_decoder_is_not_judged_on_one_window(tmp_path: Path) -> None:
    space = load_space("tiny-lm")
    (tmp_path / "text.txt").write_text("to be or not to be " * 80)
    with pytest.raises(UsageError, match=r"2 held-out pieces of text.*at least 4"):
        load_task(str(tmp_path / "text.txt"), stem=space.stem, head=space.head)


@pytest.mark.slow
def test_every_network_on_the_front_of_a_servable_search_is_a_llama_elsewhere(tmp_path: Path) -> None:
    """Extraction proves that the plain class of transformers, and the tensors in the GGUF file, give the same."""
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    folder, db = brought_in("LlamaForCausalLM", GROUPED, tmp_path), f"sqlite:///{tmp_path}/nas.db"
    told = [
        "--model",
        str(folder),
        "--data",
        str(text(tmp_path / "text.txt")),
        "--db",
        db,
        "--study",
        "served",
    ]
    goals = ["--objectives", "loss,parameters", "--searcher", "random", "--trials", "3", "--runner", "local"]
    goals += ["--quality", "supernet", "--recovery-steps", "0", "--servable", "--json", "--picture", ""]
    assert main(["search", *told, *goals]) == 0
    for trial in read("served", db=db).front:
        out = tmp_path / f"net-{trial.number}"
        chosen = ["--trial", str(trial.number), "--out", str(out), "--format", "transformers"]
        assert main(["extract", "served", "--db", db, *chosen, "--format", "gguf", "--json"]) == 0
        theirs = AutoModelForCausalLM.from_pretrained(out / "transformers")
        assert isinstance(theirs, LlamaForCausalLM)
        blocks = [b for b in ArchSpec.from_json(trial.arch).blocks if b.is_active]
        assert theirs.config.num_hidden_layers == len(blocks)
