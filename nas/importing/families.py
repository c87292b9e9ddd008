"""The families of models that can be brought in, by the model_type of their config."""

from __future__ import annotations

from collections.abc import Callable

from nas.importing import albert, bert, glassllm, gpt2, llama, vit
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


def convert(source: Source) -> Converted:
    """Raises UsageError naming the key and the value for what is not supported."""
    kind = source.config.data.get("model_type")
    if kind not in FAMILIES:
        raise source.config.refuse("model_type", ", ".join(FAMILIES))
    return FAMILIES[kind](source)
