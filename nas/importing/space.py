"""An elastic space around one model: fewer channels, narrower FFNs, fewer heads, left-out layers and, in causal models,
attention windows.

Every smaller size keeps a prefix of the model's channels, heads or experts, so all networks share its weights. The
first operator of each slot with the largest sizes is the model itself.
"""

from __future__ import annotations

from typing import Any

from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec

WIDTHS = (1 / 2, 3 / 4, 1)  # of the residual stream, as shares of the model's
GRANULARITIES = 8  # number of widths of an FFN
JUDGED_TOKENS = 128  # the longest sequence on which networks are evaluated
WINDOWS = (16, 4)  # divisors of the evaluated sequence length that give the windows of causal attention


def space_data(arch: ArchSpec, name: str, data: str) -> dict[str, Any]:
    """The space as data for `searchspace.load.resolve`. `arch` must have one stage; `data` names the data set."""
    stage, first = arch.stages[0], arch.blocks[0]
    stages: dict[str, Any] = {"num_blocks": stage.num_blocks}
    if stage.d_model != arch.d_model:
        stages["width_ratio"] = stage.d_model / arch.d_model
    if stage.enter != NONE:
        stages["enter"] = _table(stage.enter)
    if stage.repeats > 1:
        stages["repeats"] = parts_of(stage.repeats, stage.repeats)
    found: dict[str, Any] = {
        "name": name,
        "version": 1,
        "description": f"Networks inside {name}: fewer channels, narrower FFNs, fewer heads, layers left out",
        "task": arch.task,
        "data": data,
        "d_model": _widths(arch),
        "stem": _table(arch.stem),
        "head": _table(arch.head),
        "stages": [stages],
        "blocks": _elastic_block(first, arch)
        | {str(i): _elastic_block(block, arch) for i, block in enumerate(arch.blocks) if block != first},
    }
    if arch.position != NONE:
        found["position"] = _table(arch.position)
    if arch.final_norm != NONE:
        found["final_norm"] = _table(arch.final_norm)
    return found


def _elastic_block(block: BlockSpec, arch: ArchSpec) -> dict[str, Any]:
    mixer = [] if block.mixer == NONE else [_elastic_attention(block.mixer, arch)]
    ffn = [] if block.ffn == NONE else [_elastic_ffn(block.ffn)]
    return {
        "mixer": [*mixer, "none"],
        "ffn": [*ffn, "none"],
        "norm": _table(block.norm),
        "projection": _table(block.projection),
        "placement": block.placement,
    }


def _elastic_ffn(ffn: OpSpec) -> dict[str, Any]:
    """Narrower FFNs; mixtures also with fewer experts per token, at least two, as one has no weight to be mixed by."""
    if ffn.op != "moe":
        return _table(ffn) | {"d_ff": parts_of(ffn["d_ff"], GRANULARITIES)}
    widths = {n: parts_of(ffn[n], GRANULARITIES) for n in ("d_expert", "d_shared") if ffn[n]}
    return _table(ffn) | widths | {"top_k": list(range(2, ffn["top_k"] + 1))}


def _widths(arch: ArchSpec) -> int | list[int]:
    """Widths of the residual stream: WIDTHS times the model's, in multiples of 8 if the model's width is one.

    Only the model's width where its outputs are the hidden states or the width changes after the stem.
    """
    is_output = arch.head.op == "embedding" and not arch.head.get("width")
    (stage,) = arch.stages
    if is_output or stage.d_model != arch.d_model or stage.enter != NONE:
        return arch.d_model
    unit = 8 if arch.d_model % 8 == 0 else 1
    return sorted({max(unit, round(arch.d_model * share / unit) * unit) for share in WIDTHS})


def judged_length(stem: OpSpec) -> int:
    """The sequence length, in tokens, at which a network with this stem is evaluated."""
    return int(min(JUDGED_TOKENS, stem.get("max_len", JUDGED_TOKENS)))


def parts_of(whole: int, count: int) -> list[int]:
    """The distinct values of `whole` * i / `count` for i = 1 .. `count`, rounded, at least 1, ascending."""
    return sorted({max(1, round(whole * i / count)) for i in range(1, count + 1)})


def _elastic_attention(mixer: OpSpec, arch: ArchSpec) -> dict[str, Any]:
    if mixer.op == "latent_attention":
        return _table(mixer) | {"num_heads": parts_of(mixer["num_heads"], 4)}
    if mixer.op == "gated_deltanet":
        return _table(mixer) | {"num_groups": parts_of(mixer["num_groups"], min(4, mixer["num_groups"]))}
    elastic: dict[str, Any] = {
        "num_groups": parts_of(mixer["num_groups"], min(4, mixer["num_groups"])),
        "heads_per_group": parts_of(mixer["heads_per_group"], min(4, mixer["heads_per_group"])),
    }
    if arch.is_causal and not mixer["window"]:  # a model trained with a window keeps it
        windows = {judged_length(arch.stem) // part for part in WINDOWS}
        elastic["window"] = [0, *sorted(w for w in windows if w > 1)]
    return _table(mixer) | elastic


def _table(op: OpSpec) -> dict[str, Any]:
    return op.to_json()


def to_toml(data: dict[str, Any]) -> str:
    """The text of a space file in TOML; `data` holds values, tables of values, and lists of tables."""
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if not _is_section(value)]
    for key, value in data.items():
        if _is_section(value):
            for table in value if isinstance(value, list) else [value]:
                lines += ["", f"[[{key}]]" if isinstance(value, list) else f"[{key}]"]
                lines += [f"{name} = {_value(item)}" for name, item in table.items()]
    return "\n".join(lines) + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(v, dict) for v in value))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(item)}" for name, item in value.items()) + " }"
    return repr(value)
