"""Sentence embeddings: the modules after a transformer's hidden states, from modules.json.

A model is a sequence of modules, each with its own folder: Transformer, Pooling and optionally Normalize. Reads files
of sentence-transformers 1 to 6. Reimers and Gurevych, "Sentence-BERT", arXiv:1908.10084.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.importing.config import Config, read_config, read_json

MODULES = "modules.json"
POOLINGS = {"mean": "mean", "cls": "first"}
# older boolean key -> mode, in the order in which several modes would be concatenated
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
SENTENCE, TOKENS = "sentence_embedding", "token_embeddings"
FORWARD = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


@dataclass(frozen=True)
class SentenceModules:
    """`transformer`: its folder within the model's; `width`: of the hidden states, None where the files don't say.

    `pooling` and `normalize` are items of the operator embedding.
    """

    transformer: str
    pooling: str
    normalize: bool
    width: int | None
    path: Path
    notes: tuple[str, ...] = ()


def read_modules(folder: Path) -> SentenceModules | None:
    """The modules of a sentence embedding, None where the folder has no modules.json.

    Raises UsageError naming the module, or the key and its value, that is not supported.
    """
    path = folder / MODULES
    if not path.is_file():
        strays = sorted(folder.glob("*Pooling/config.json"))
        if strays:
            raise UsageError(f"{strays[0]} is there without {path}, which would say where pooling comes in")
        return None
    found = [_module(path, entry) for entry in _list(path)]
    kinds = [kind for kind, _ in found]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UsageError(
            f"{path}: its modules are {', '.join(kinds)}; the importer takes Transformer, Pooling, then Normalize or "
            "nothing"
        )
    places = [place for _, place in found]
    pooling, width = _pooling(read_config(folder / places[1] / "config.json"))
    for place in places[2:]:
        _check_normalize(folder / place / "config.json")
    _check_prompts(folder / "config_sentence_transformers.json")
    tables = sorted((folder / places[0]).glob("sentence_*_config.json"))
    notes = [note for table in tables for note in _text(read_config(table))]
    return SentenceModules(places[0], pooling, len(kinds) == 3, width, path, tuple(notes))


def _list(path: Path) -> list[Any]:
    data = read_json(path)
    if not isinstance(data, list):
        raise UsageError(f"{path} holds a {type(data).__name__} where a list of modules is expected")
    return data


def _module(path: Path, entry: Any) -> tuple[str, str]:
    """(class name of a module, its folder within the model's). Raises UsageError for an entry that is not supported."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("path", "type")):
        raise UsageError(f"{path}: {entry!r} is no module, a table with texts path and type")
    Config(entry, path).done(("idx", "name", "path", "type"))
    package, _, kind = entry["type"].rpartition(".")
    if package.split(".")[0] != "sentence_transformers":
        raise UsageError(
            f"{path}: type is {entry['type']!r}; the importer takes modules of sentence_transformers"
        )
    place, root = (path.parent / entry["path"]).resolve(), path.parent.resolve()
    if not place.is_relative_to(root):
        raise UsageError(f"{path}: path is {entry['path']!r}; the importer takes a folder inside the model's")
    return kind, entry["path"]


def _pooling(config: Config) -> tuple[str, int | None]:
    """(pooling of the operator embedding, width of the hidden states or None)."""
    flags = {mode: config.flag(key, False) for key, mode in FLAGS.items()}
    modes = [mode for mode, is_on in flags.items() if is_on]
    given = config.get("pooling_mode")
    if given is None and modes != ["mean"] and "pooling_mode_mean_tokens" not in config.data:
        # releases of sentence-transformers differ in the default of pooling_mode_mean_tokens
        if modes:
            raise config.refuse("pooling_mode_mean_tokens", f"false beside {', '.join(modes)}")
        modes = ["mean"]
    if given is not None:
        chosen = given if isinstance(given, list) else [given]
        if modes and modes != chosen:
            raise config.refuse("pooling_mode", f"the same as the older keys, {', '.join(modes)}")
        modes = chosen
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in POOLINGS:
        key = (
            "pooling_mode"
            if given is not None
            else next(
                (key for key, mode in FLAGS.items() if mode in modes and mode not in POOLINGS),
                "pooling_mode_mean_tokens",
            )
        )
        raise config.refuse(
            key, f"one mode, {' or '.join(POOLINGS)}; here: {', '.join(map(str, modes)) or 'none'}"
        )
    widths = {
        config.size(k)
        for k in ("embedding_dimension", "word_embedding_dimension")
        if config.get(k) is not None
    }
    if len(widths) > 1:
        raise config.refuse("embedding_dimension", "the same as word_embedding_dimension")
    config.done(("include_prompt",))  # no prompt comes first: see _check_prompts
    return POOLINGS[modes[0]], next(iter(widths), None)


def _check_normalize(path: Path) -> None:
    if path.is_file():
        config = read_config(path)
        config.only(module_input_name=SENTENCE, module_output_name=SENTENCE)
        config.done(())


def _check_prompts(path: Path) -> None:
    """Raises UsageError for a default prompt: prepended to every text, it would change the embeddings."""
    if path.is_file():
        config = read_config(path)
        name, prompts = config.get("default_prompt_name"), config.get("prompts", {})
        if name is not None and (not isinstance(prompts, dict) or prompts.get(name)):
            raise config.refuse("default_prompt_name", "null: texts as they are")
        config.only(model_type="SentenceTransformer")
        config.done(("__version__", "similarity_fn_name"))


def _text(config: Config) -> list[str]:
    """Check the transformer's table of text settings. Returns a note where it truncates texts."""
    config.only(
        transformer_task="feature-extraction",
        modality_config=FORWARD,
        module_output_name=TOKENS,
        processing_kwargs={},
    )
    if config.flag("do_lower_case", False) and not _lowers(config.path.with_name("tokenizer.json")):
        raise config.refuse("do_lower_case", "true only where tokenizer.json makes texts lower case itself")
    longest = config.get("max_seq_length")
    config.done(("unpad_inputs",))
    return [f"texts are cut after {config.size('max_seq_length')} tokens there, not here"] if longest else []


def _lowers(tokenizer: Path) -> bool:
    """Whether the tokenizer's normalizer makes texts lower case; True without the file, since no text is read then."""
    if not tokenizer.is_file():
        return True
    normalizer = read_config(tokenizer).data.get("normalizer") or {}
    steps = [normalizer, *normalizer.get("normalizers", [])]
    return any(s.get("type") == "Lowercase" or s.get("lowercase") is True for s in steps)
