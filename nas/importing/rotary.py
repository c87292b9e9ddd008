"""Operator rope from a config's rope_theta, rope_parameters, rope_scaling and their older names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import UsageError
from nas.importing.config import Config
from nas.importing.description import Family
from searchspace.primitives.context import BuildContext
from searchspace.primitives.heads import frequency_step
from searchspace.spec.arch import OpSpec
from searchspace.validity import why_op_invalid

TABLES = ("rope_parameters", "rope_scaling")
LOCAL = "rope_local_base_freq"
SHARES = ("partial_rotary_factor", "rotary_pct")
COMMON = {"rope_type", "type", "rope_theta", *SHARES}
MSCALES = ("mscale", "mscale_all_dim")  # cos and sin are scaled by the ratio of the two stretches
LENGTH = "original_max_position_embeddings"
# rope_type -> key of its table -> the only value supported, or None for any
TYPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "linear": {"factor": None},
    "dynamic": {"factor": None, LENGTH: None},
    "yarn": {
        "factor": None,
        LENGTH: None,
        "attention_factor": None,
        "beta_fast": 32,
        "beta_slow": 1,
        "truncate": None,
        "mscale": None,
        "mscale_all_dim": None,
    },
    "llama3": {"factor": None, LENGTH: None, "low_freq_factor": 1, "high_freq_factor": 4},
    "longrope": {
        "factor": None,
        LENGTH: None,
        "attention_factor": None,
        "short_factor": None,
        "long_factor": None,
    },
}
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Rotary:
    """`position`: the operator; `share`: of a head's channels that are rotated; `scores`: factor of all scores.

    `is_local`: whether layers with a window have their own base; `max_len`: the longest text, in tokens, for which
    `position` computes what the config says. `mscale`: DeepSeek's attention multiplies all scores by its square.
    """

    position: OpSpec
    share: float
    scores: float
    is_local: bool
    max_len: int
    notes: tuple[str, ...] = ()
    mscale: float = 1.0


def rotary(family: Family, config: Config, head_dim: int, max_len: int) -> Rotary:
    """The rotary positions. Raises UsageError naming the key where the operator rope can't compute them."""
    whole, local = _tables(config)
    whole = whole or dict(family.defaults.get(TABLES[0], {}))
    local_base = config.get(LOCAL, local.get("rope_theta") if local else None)
    local_base = config.get("local_rope_theta", local_base or family.defaults.get(LOCAL))
    base = _base(config, whole, family)
    share = _share(config, whole, family, head_dim)
    channels = round(head_dim * share)
    if channels % 2 or channels < 2:
        if share != 1.0:
            raise config.refuse(
                next((k for k in SHARES if config.get(k) is not None), TABLES[0]),
                f"a share that leaves an even number of the {head_dim} channels of a head, which turn in pairs",
            )
        raise config.refuse(
            "head_dim", f"an even number, as rotary channels are pairs; here it is {head_dim}"
        )
    kind = _kind(whole)
    if kind == "yarn" and share != 1.0:
        raise config.refuse(TABLES[0], "of yarn heads that turn as a whole")
    reach = share * frequency_step(share)  # exponent range of the operator's frequencies; 1 is the family's
    if abs(reach - 1) > 1e-9:
        if kind != "default" or local_base is not None:
            raise config.refuse(TABLES[0], f"of heads that turn {share:g} of their channels one plain base")
        base = base ** (1 / reach)
    more, scores, notes = _scaling(config, whole, str(kind), max_len)
    if kind in ("dynamic", "longrope"):
        max_len = min(max_len, _length(config, whole, max_len))
    items = {"base": _plain(base), "dim": head_dim, **more}
    if local_base is not None and local_base != base:
        items["local_base"] = _plain(float(local_base))
    position = OpSpec.of("rope", **items)
    _check_known(config, position)
    mscale = 1.0
    if family.latent and whole.get("mscale_all_dim") is not None:
        inner = Config(whole, config.path)
        mscale = _stretch(float(position["factor"]), inner.number("mscale_all_dim", 1.0))
    return Rotary(position, share, scores, "local_base" in items, max_len, notes, mscale)


def _check_known(config: Config, position: OpSpec) -> None:
    """Raises UsageError naming the config's key where `position` is no valid operator."""
    reason = why_op_invalid("position", position, BuildContext(d_model=position["dim"]))
    if reason is not None:
        key = next((k for k in (*TABLES, "rope_local_base_freq") if config.get(k)), "rope_theta")
        raise config.refuse(key, f"what the operator rope does: {reason}")


def _tables(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """(table of all layers or of those without a window, table of those with a window if they have another one)."""
    found: dict[str, Any] = {}
    local: dict[str, Any] = {}
    for key in TABLES:
        given = config.get(key, {})
        if not isinstance(given, dict):
            raise config.refuse(key, "a table of rotary positions")
        if given and set(given) <= set(LAYER_TYPES) and all(isinstance(t, dict) for t in given.values()):
            local = {k: v for k, v in given.get("sliding_attention", {}).items() if v is not None}
            given = given.get("full_attention", local)
            if local.keys() - {"rope_type", "type", "rope_theta"} or _kind(local) != "default":
                raise config.refuse(key, "layers with a window whose rotary positions have no scaling")
        kind = _kind(given)
        takes = TYPES.get(kind) if isinstance(kind, str) else None
        if takes is None:
            raise config.refuse(key, f"rope_type {' or '.join(TYPES)}")
        for name, value in given.items():
            allowed = takes.get(name)
            if value is not None and name not in COMMON | set(takes):
                raise config.refuse(key, f"of {name} nothing where rope_type is {kind}")
            if value is not None and allowed is not None and value != allowed:
                raise config.refuse(key, f"{name} {allowed}")
        for name, mine in (("rope_type", kind), ("rope_theta", given.get("rope_theta"))):
            theirs = _kind(found) if name == "rope_type" else found.get(name)
            if found and given and None not in (mine, theirs) and mine != theirs:
                raise config.refuse(key, f"one {name}; {TABLES[0]} says {theirs}")
        found |= {k: v for k, v in given.items() if v is not None}
    return found, local


def _kind(table: Mapping[str, Any]) -> Any:
    return table.get("rope_type", table.get("type")) or "default"


def _base(config: Config, table: Mapping[str, Any], family: Family) -> float:
    keys = [
        "rope_theta",
        "global_rope_theta",
        *(["rotary_emb_base"] if "rotary_pct" in family.partial else []),
    ]
    default = family.defaults.get("rope_theta", 10000.0)
    given = {key: config.number(key, default) for key in keys if config.get(key) is not None}
    base = Config(table, config.path).number("rope_theta", next(iter(given.values()), default))
    for key, value in given.items():
        if value != base:
            raise config.refuse(key, f"one base of the rotary angles; another key says {base}")
    return base


def _share(config: Config, table: Mapping[str, Any], family: Family, head_dim: int) -> float:
    """The share of a head's channels that are rotated, 1 for families without a key for it."""
    if family.turning:
        count = config.size(family.turning, family.defaults[family.turning])
        if count > head_dim:
            raise config.refuse(family.turning, f"at most the {head_dim} channels of a head")
        return count / head_dim
    given = {key: config.get(key, table.get(key)) for key in family.partial or SHARES[:1]}
    found = {float(value) for value in given.values() if value is not None}
    found = found or {float(family.defaults.get("rotary_pct", 1.0))}
    share = found.pop()
    for key, value in given.items():
        if value is not None and (found or not 0 < share <= 1 or (share != 1.0 and not family.partial)):
            takes = "one share of the channels, above 0, at most 1" if family.partial else "1.0"
            raise UsageError(f"{config.path}: {key} is {value!r}; the importer takes {takes}")
    return share


def _length(config: Config, table: Mapping[str, Any], max_len: int) -> int:
    return Config({**config.data, **table}, config.path).size(LENGTH, max_len)


def _scaling(
    config: Config, table: Mapping[str, Any], kind: str, max_len: int
) -> tuple[dict[str, Any], float, tuple[str, ...]]:
    """(items of the operator rope, factor of all scores, notes)."""
    inner = Config(table, config.path)
    config.get(LENGTH)  # only longrope uses it; elsewhere it is a copy of the table's
    if kind == "default":
        return {}, 1.0, ()
    length = _length(config, table, max_len)
    if kind == "dynamic":
        return {}, 1.0, (f"of at most {length} tokens: longer texts would change the rotary positions",)
    if kind == "longrope":
        factor = inner.number("factor", max_len / length)
        usual = math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0
        short = set(table.get("short_factor", ()))
        if len(short) != 1:
            raise config.refuse("rope_scaling", "of longrope one short_factor for all channels")
        items = {} if short == {1.0} else {"scaling": "linear", "factor": float(short.pop())}
        notes = (f"of at most {length} tokens: longer texts would change the rotary positions",)
        return items, inner.number("attention_factor", usual) ** 2, notes
    factor = inner.number("factor", max_len / length)
    items = {"scaling": kind, "factor": factor}
    if kind == "linear":
        return items, 1.0, ()
    usual = _stretch(factor) if kind == "yarn" else 1.0
    given, scales = usual, [inner.number(name, 0) for name in MSCALES if inner.get(name) is not None]
    if len(scales) == len(MSCALES):
        given = _stretch(factor, scales[0]) / _stretch(factor, scales[1])
    scores = (inner.number("attention_factor", given) / usual) ** 2
    if kind == "yarn" and not inner.flag("truncate", True):
        items["scaling"] = "yarn_unrounded"
    return items | {"original_len": length}, scores, ()


def _stretch(factor: float, mscale: float = 1.0) -> float:
    """YaRN's factor of cos and sin for texts `factor` times as long (Peng et al., arXiv:2309.00071)."""
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def _plain(value: float) -> float:
    return int(value) if value == int(value) else value
