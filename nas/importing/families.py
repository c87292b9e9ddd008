"""The families of models that can be brought in, by the model_type of their config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nas.errors import UsageError
from nas.importing import albert, bert, glassllm, gpt2, llama, vit
from nas.importing.config import HARMLESS
from nas.importing.parts import Converted
from nas.importing.source import Source

FAMILIES: dict[str, Callable[[Source], Converted]] = {
    "albert": albert.convert,
    "bert": bert.convert,
    "glassllm": glassllm.convert,
    "gpt2": gpt2.convert,
    "llama": llama.convert,
    "qwen2": llama.convert,
    "qwen3": llama.convert,
    "vit": vit.convert,
}

SENTENCES = ("albert", "bert")


def convert(source: Source) -> Converted:
    """Raises UsageError naming the key and its value, or the tensor, for what is not supported."""
    kind = source.config.get("model_type")
    if kind not in FAMILIES:
        raise source.config.refuse("model_type", ", ".join(FAMILIES))
    if source.sentence is not None and kind not in SENTENCES:
        raise UsageError(
            f"{source.sentence.path} is of a {kind} model; the importer takes it of {' and '.join(SENTENCES)}"
        )
    found = FAMILIES[kind](source)
    source.config.done(HARMLESS | found.harmless)
    return replace(found, notes=(*found.notes, *source.notes))
