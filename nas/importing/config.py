"""Read JSON tables beside a model's weights. Every value is read by its key; a key that was never read is an error."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from nas.errors import UsageError

# Keys of a config.json of transformers that do not change what the model computes from tokens at inference.
HARMLESS = frozenset(
    [
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_bfloat16",
        "torchscript",
        "transformers.js_config",
        "tokenizer_class",
        "model_max_length",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "output_past",
        "use_cache",
        "chunk_size_feed_forward",
        "_attn_implementation",
        "attn_implementation",
        "_attn_implementation_autoset",
        "initializer_range",
        "initializer_factor",
        "gradient_checkpointing",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "id2label",
        "label2id",
        "num_labels",
        "_num_labels",
        "tie_encoder_decoder",
        "bos_token_id",
        "eos_token_id",
        "eos_token_ids",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "mask_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "prefix",
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "remove_invalid_values",
        "return_dict_in_generate",
        "output_scores",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "attention_dropout",
        "hidden_dropout",
        "classifier_dropout",
        "classifier_dropout_prob",
    ]
)


class Config:
    """A config.json that records which keys were read; its errors name the file, the key and the value."""

    def __init__(self, data: Mapping[str, Any], path: Path) -> None:
        self.data, self.path = data, path
        self._asked: set[str] = set()

    def refuse(self, key: str, takes: str) -> UsageError:
        """The error to raise for an unsupported value of `key`; `takes` says what is supported."""
        return UsageError(f"{self.path}: {key} is {self.data.get(key)!r}; the importer takes {takes}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; `default` where the key is missing or null."""
        self._asked.add(key)
        value = self.data.get(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer; `default` where the key is missing or null. Raises UsageError for another value."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refuse(key, "a positive whole number")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive finite number; `default` where the key is missing or null. Raises UsageError for another value."""
        value = self.get(key, default)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not value > 0
            or not isfinite(value)
        ):
            raise self.refuse(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean; `default` where the key is missing or null. Raises UsageError for another value."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def one_of(self, key: str, takes: Mapping[str, str], default: str = "") -> str:
        """`takes[value of key]`: our name for it. Raises UsageError for a value that `takes` lacks."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in takes:
            raise self.refuse(key, " or ".join(map(repr, takes)))
        return takes[value]

    def architecture(self, takes: Mapping[str, str], default: str) -> str:
        """Our name for the class in `architectures`, or for the class `default` where the config gives none.

        Raises UsageError unless there is exactly one class and `takes` has it.
        """
        given = self.get("architectures") or [default]
        if not isinstance(given, list) or len(given) != 1 or given[0] not in takes:
            raise self.refuse("architectures", " or ".join(f"['{name}']" for name in takes))
        return takes[given[0]]

    def parts(self, whole: str, count: str) -> int:
        """The size `whole` divided by the size `count`. Raises UsageError where it is not divisible."""
        total, number = self.size(whole), self.size(count)
        if total % number:
            raise self.refuse(count, f"a divisor of {whole} {total}")
        return total // number

    def only(self, **values: Any) -> None:
        """Raises UsageError for a key whose value is neither null nor the one given here."""
        for key, value in values.items():
            if self.get(key) not in (None, value):
                raise self.refuse(key, repr(value))

    def done(self, harmless: Collection[str]) -> None:
        """Raises UsageError for a key that was never read, unless it is null or in `harmless`."""
        for key, value in self.data.items():
            if value is not None and key not in self._asked and key not in harmless:
                raise UsageError(
                    f"{self.path}: {key} is {repr(value)[:80]}; the importer does not know what that changes"
                )


def read_config(path: Path) -> Config:
    """The table in a JSON file. Raises UsageError where the file is missing, is not JSON or holds no table."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds a {type(data).__name__} where a table is expected")
    return Config(data, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UsageError where the file can't be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; give the folder of a model with its config.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
