"""Byte-pair encoding over characters, as glassllm keeps it, in the terms of the package tokenizers."""

import json
from pathlib import Path

import pytest

from nas.errors import UsageError
from nas.importing.glassllm import SPACE, tokenizer_json
from nas.tasks.pretrained import tokenizer_of

ALPHABET, MERGES = ["a", "b", SPACE], [["a", "b"], [SPACE, "ab"]]
A, B, BLANK, AB, BLANK_AB = range(4, 9)  # behind four special tokens, of which 1 stands for what is not known


def kept(folder: Path, **data: object) -> Path:
    path = folder / "model.tokenizer.json"
    path.write_text(json.dumps({"alphabet": ALPHABET, "merges": MERGES} | data), encoding="utf-8")
    return path


def test_merges_apply_within_a_chunk_that_begins_with_its_spaces(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(kept(tmp_path), 9), encoding="utf-8")
    tokenizer = tokenizer_of(tmp_path / "tokenizer.json")
    assert tokenizer.encode("ab ab  abc a ").ids == [AB, BLANK_AB, BLANK, BLANK_AB, 1, BLANK, A, BLANK]
    assert tokenizer.encode("ba").ids == [B, A]
    assert tokenizer.decode([AB, BLANK_AB, BLANK, A]) == "ab ab a"


def test_a_tokenizer_of_another_size_or_without_merges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has 9 tokens, the model has vocab_size 10"):
        tokenizer_json(kept(tmp_path), 10)
    for wrong in ({"merges": [["a"]]}, {"merges": [7]}, {"alphabet": [1, 2, 3]}, {"alphabet": None}):
        with pytest.raises(UsageError, match="a list alphabet of texts, and a list merges of pairs"):
            tokenizer_json(kept(tmp_path, **wrong), 9)
