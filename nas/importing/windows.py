"""How far back each layer of a described model looks, and in which of them queries and keys are turned."""

from __future__ import annotations

from nas.importing.config import Config
from nas.importing.description import Family

# which layer out of how many sees everything
PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
FULL, SLIDING = "full_attention", "sliding_attention"


def windows(family: Family, config: Config, layers: int) -> list[int]:
    """How far each layer looks back, 0 without a limit."""
    if family.delta:  # which reads layer_types
        return [0] * layers
    if not family.sliding:
        config.only(layer_types=[FULL] * layers)
        return [0] * layers
    key = family.window
    window = config.size(key, family.defaults.get(key)) if _said(config, key, family) else 0
    if family.sliding == "all":
        return [window] * layers
    if family.sliding == "types":
        return [window if kind == "local" else 0 for kind in _types(config, layers)]
    kinds = config.get("layer_types")
    for said_by_layer_types in (
        "max_window_layers",
        *(PATTERNS if family.sliding.startswith("every") else ()),
    ):
        config.get(said_by_layer_types)
    if family.sliding == "late" and not config.flag("use_sliding_window", False):
        window = 0
    if kinds is None:
        kinds = [_usual(family, config, i) if window else FULL for i in range(layers)]
    elif not isinstance(kinds, list) or len(kinds) < layers or set(kinds) - {FULL, SLIDING}:
        raise config.refuse("layer_types", f"{FULL} or {SLIDING} for each of {layers} layers")
    if SLIDING in kinds and not window:
        raise config.refuse("layer_types", f"{FULL} in every layer where no window is used")
    return [window if kind == SLIDING else 0 for kind in kinds[:layers]]


def _types(config: Config, count: int) -> list[str]:
    """local or global for each layer, from attention_types: [[["global", "local"], 6]] for twelve of them."""
    given = config.get("attention_types", [[["global", "local"], count // 2]])
    try:
        found = [kind for kinds, times in given for _ in range(times) for kind in kinds]
    except (TypeError, ValueError):
        found = []
    if len(found) != count or set(found) - {"global", "local"}:
        raise config.refuse(
            "attention_types", f"lists of 'global' and 'local', and how often each, for {count} layers"
        )
    return found


def _said(config: Config, key: str, family: Family) -> bool:
    config.get(key)
    return config.data.get(key, family.defaults.get(key)) is not None


def _usual(family: Family, config: Config, layer: int) -> str:
    """What a layer is where no list says it."""
    rule, _, count = family.sliding.partition(" ")
    if rule == "after":
        period = config.size("global_attn_every_n_layers", int(count))
        return SLIDING if layer % period else FULL
    if rule == "every":
        period = int(count)
        for key in PATTERNS:
            period = config.size(key, period)
        return FULL if (layer + 1) % period == 0 else SLIDING
    first = config.size("max_window_layers", family.defaults.get("max_window_layers", 1))
    return SLIDING if family.sliding == "late" and layer >= first else FULL


def unturned(family: Family, config: Config, layers: int) -> list[bool]:
    """Which layers have no rotary positions: those with a 0 in no_rope_layers, or every N-th where that is missing."""
    key = "no_rope_layer_interval"
    if key not in family.defaults:
        return [False] * layers
    period, turned = config.size(key, family.defaults[key]), config.get("no_rope_layers")
    if turned is None:
        return [(i + 1) % period == 0 for i in range(layers)]
    if not isinstance(turned, list) or len(turned) < layers or set(turned) - {0, 1}:
        raise config.refuse("no_rope_layers", f"0 or 1 for each of {layers} layers")
    return [not turn for turn in turned[:layers]]
