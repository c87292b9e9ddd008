"""A sentence embedding computes what its modules.json says, in files of any release of sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.errors import UsageError
from nas.importing.load import import_model
from searchspace.primitives.context import Tokens
from tests.nas.importing.test_families import TEXT, saved

OLD, NEW = "sentence_transformers.models.", "sentence_transformers.base.modules."
KINDS = {"Transformer": "transformer", "Pooling": "pooling", "Normalize": "normalize", "Dense": "dense"}
OLD_FLAGS = [
    f"pooling_mode_{mode}" for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
]


def old(*chosen: str) -> dict[str, Any]:
    return {"word_embedding_dimension": 24} | {flag: flag in chosen for flag in OLD_FLAGS}


def new(mode: Any) -> dict[str, Any]:
    return {"embedding_dimension": 24, "pooling_mode": mode, "include_prompt": True}


MEAN, FIRST = old("pooling_mode_mean_tokens"), old("pooling_mode_cls_token")


def modules(
    folder: Path, pooling: dict[str, Any], *then: str, place: str = "1_Pooling", root: str = ""
) -> None:
    """modules.json as version 6 writes it where pooling is in its newer form, as version 2 where not."""
    kinds = {root: "Transformer", place: "Pooling"} | {f"{i}_{kind}": kind for i, kind in enumerate(then, 2)}
    prefix = {kind: f"{NEW}{KINDS[kind]}." if "pooling_mode" in pooling else OLD for kind in KINDS}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": prefix[kind] + kind}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / place).mkdir()
    (folder / place / "config.json").write_text(json.dumps(pooling))


@torch.no_grad()
def hidden_states(theirs: Any, inputs: Tensor, valid: Tensor) -> Tensor:
    found: Tensor = theirs(inputs, attention_mask=valid.long()).last_hidden_state
    return found


@pytest.mark.parametrize(
    ("pooling", "then", "place"),
    [
        (MEAN, (), "1_Pooling"),
        (MEAN, ("Normalize",), "elsewhere"),
        (FIRST, ("Normalize",), "1_Pooling"),
        (new("mean"), ("Normalize",), "1_Pooling"),
        (new("cls"), (), "1_Pooling"),
        (new(["mean"]), (), "1_Pooling"),
        ({"word_embedding_dimension": 24}, (), "1_Pooling"),
    ],
)
@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM"])
def test_an_embedding_is_what_the_modules_make_of_the_hidden_states(
    name: str, pooling: dict[str, Any], then: tuple[str, ...], place: str, tmp_path: Path
):
    theirs = saved(name, TEXT, tmp_path / "theirs")
    modules(tmp_path / "theirs", pooling, *then, place=place)
    inputs, valid = torch.randint(0, 61, (2, 11)), torch.ones(2, 11, dtype=torch.bool)
    valid[1, 8:] = False
    states = hidden_states(getattr(theirs, "bert", theirs), inputs, valid)
    is_first = "cls" in str(pooling.get("pooling_mode")) or pooling.get("pooling_mode_cls_token")
    mean = (states * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True)
    expected = states[:, 0] if is_first else mean
    if then:
        expected = expected / expected.norm(dim=-1, keepdim=True)
    ours = import_model(tmp_path / "theirs", tmp_path / "ours")[0].model()
    torch.testing.assert_close(ours(inputs, Tokens(valid=valid))[0], expected, rtol=1e-4, atol=1e-4)


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path):
    saved("BertModel", TEXT, tmp_path / "plain")
    modules(tmp_path / "plain", MEAN)
    saved_below = tmp_path / "theirs"
    saved_below.mkdir()
    modules(saved_below, MEAN, root="0_Transformer")
    for path in ("config.json", "model.safetensors"):
        (saved_below / "0_Transformer").mkdir(exist_ok=True)
        (saved_below / "0_Transformer" / path).write_bytes((tmp_path / "plain" / path).read_bytes())
    ours, _ = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert ours.sha256 == import_model(tmp_path / "plain", tmp_path / "again")[0].sha256


@pytest.mark.parametrize(
    ("pooling", "then", "sentence"),
    [
        (MEAN, ("Dense",), "its modules are Transformer, Pooling, Dense"),
        (MEAN, ("Dense", "Normalize"), "its modules are Transformer, Pooling, Dense, Normalize"),
        (old("pooling_mode_cls_token", "pooling_mode_mean_tokens"), (), "cls, mean"),
        (old("pooling_mode_mean_tokens", "pooling_mode_max_tokens"), (), "pooling_mode_max_tokens is True"),
        (MEAN | {"pooling_mode_lasttoken": True}, (), "pooling_mode_lasttoken is True"),
        (MEAN | {"pooling_mode_weightedmean_tokens": True}, (), "pooling_mode_weightedmean_tokens is True"),
        (old(), (), "here: none"),
        (MEAN | {"pooling_mode_of_the_future": True}, (), "pooling_mode_of_the_future is True"),
        (new(["cls", "mean"]), (), r"pooling_mode is \['cls', 'mean'\]"),
        (new("max"), (), "pooling_mode is 'max'"),
        (new("mean") | FIRST, (), "pooling_mode is 'mean'; .* older keys, cls"),
        ({"pooling_mode_cls_token": True}, (), "pooling_mode_mean_tokens is None"),
        (MEAN | {"word_embedding_dimension": 32}, (), "hidden_size is 24; .* what pooling takes, 32"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(
    pooling: dict[str, Any], then: tuple[str, ...], sentence: str, tmp_path: Path
):
    saved("BertModel", TEXT, tmp_path / "theirs")
    modules(tmp_path / "theirs", pooling, *then)
    with pytest.raises(UsageError, match=sentence):
        import_model(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize(
    ("file", "data", "sentence"),
    [
        ("modules.json", [{"path": "", "type": f"{OLD}Transformer"}], "its modules are Transformer"),
        ("modules.json", [{"path": "../x", "type": f"{OLD}Transformer"}], r"path is '\.\./x'"),
        ("modules.json", [{"path": "", "type": "theirs.Transformer"}], r"type is 'theirs\.Transformer'"),
        ("modules.json", {}, "a list of modules is expected"),
        ("modules.json", [7], "7 is no module"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is True"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
        ("sentence_bert_config.json", {"query_length": 32}, "query_length is 32"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name is"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
            "default_prompt_name is 'query'",
        ),
    ],
)
def test_what_the_other_files_ask_for_is_not_ignored(file: str, data: Any, sentence: str, tmp_path: Path):
    folder = tmp_path / "theirs"
    saved("BertModel", TEXT, folder)
    modules(folder, MEAN, "Normalize")
    (folder / "tokenizer.json").write_text(json.dumps({"normalizer": {"type": "NFC"}}))
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(data))
    with pytest.raises(UsageError, match=sentence):
        import_model(folder, tmp_path / "ours")


def test_a_decoder_with_modules_and_pooling_without_modules_are_refused(tmp_path: Path):
    saved("Qwen3ForCausalLM", TEXT | {"head_dim": 8, "num_key_value_heads": 2}, tmp_path / "decoder")
    modules(tmp_path / "decoder", MEAN)
    with pytest.raises(UsageError, match=r"modules\.json is of a qwen3 model"):
        import_model(tmp_path / "decoder", tmp_path / "ours")
    saved("BertModel", TEXT, tmp_path / "theirs")
    modules(tmp_path / "theirs", MEAN)
    (tmp_path / "theirs" / "modules.json").unlink()
    with pytest.raises(UsageError, match=r"1_Pooling/config\.json is there without"):
        import_model(tmp_path / "theirs", tmp_path / "ours")
