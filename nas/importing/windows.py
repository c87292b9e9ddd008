"""The attention window of each layer of a described model, and which layers have rotary positions."""

from __future__ import annotations

from nas.importing.config import Config
from nas.importing.description import Family

# keys of the period with which a layer has no window
PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
FULL, SLIDING = "full_attention", "sliding_attention"


def windows(family: Family, config: Config, layers: int) -> list[int]:
    """The window of each layer in tokens, 0 for none. Raises UsageError where layer_types does not fit."""
    if family.delta:  # layer_types is read by nas.importing.delta
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
    """One of "local" and "global" for each layer; attention_types is [[["global", "local"], 6]] for 12 layers."""
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
    """Whether the config, or the family's default where the key is missing, gives a value other than null."""
    config.get(key)
    return config.data.get(key, family.defaults.get(key)) is not None


def _usual(family: Family, config: Config, layer: int) -> str:
    """The kind of a layer where the config has no layer_types: FULL or SLIDING."""
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
    """For each layer whether it has no rotary positions: 0 in no_rope_layers, or every N-th where the key is missing.

    Raises UsageError where no_rope_layers is not 0 or 1 for each layer.
    """
    key = "no_rope_layer_interval"
    if key not in family.defaults:
        return [False] * layers
    period, turned = config.size(key, family.defaults[key]), config.get("no_rope_layers")
    if turned is None:
        return [(i + 1) % period == 0 for i in range(layers)]
    if not isinstance(turned, list) or len(turned) < layers or set(turned) - {0, 1}:
        raise config.refuse("no_rope_layers", f"0 or 1 for each of {layers} layers")
    return [not turn for turn in turned[:layers]]
