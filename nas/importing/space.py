"""An elastic space around one model: fewer channels, narrower FFNs, fewer heads, left-out layers, windows where it is
causal.

Every value keeps a prefix of what the model has, so all networks of the space share its weights. The first operator of
each slot and the largest numbers are the model itself.
"""

from __future__ import annotations

from typing import Any

from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec

WIDTHS = (1 / 2, 3 / 4, 1)  # of the residual stream
GRANULARITIES = 8  # widths of an FFN
JUDGED_TOKENS = 128  # of a text at most: networks are judged on no more at once
WINDOWS = (16, 4)  # of causal attention, as parts of the tokens that networks are judged on


def space_data(arch: ArchSpec, name: str, data: str) -> dict[str, Any]:
    """What `searchspace.load.resolve` takes. `arch` has one stage."""
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
    """Narrower; of experts also fewer for each token, at least two, which have weights to be mixed by."""
    if ffn.op != "moe":
        return _table(ffn) | {"d_ff": parts_of(ffn["d_ff"], GRANULARITIES)}
    widths = {n: parts_of(ffn[n], GRANULARITIES) for n in ("d_expert", "d_shared") if ffn[n]}
    return _table(ffn) | widths | {"top_k": list(range(2, ffn["top_k"] + 1))}


def _widths(arch: ArchSpec) -> int | list[int]:
    """Of the residual stream: WIDTHS of the model's, in multiples of 8 where that is one.

    The model's alone where its outputs are as wide as itself, and where it has several streams.
    """
    is_output = arch.head.op == "embedding" and not arch.head.get("width")
    (stage,) = arch.stages
    if is_output or stage.d_model != arch.d_model or stage.enter != NONE:
        return arch.d_model
    unit = 8 if arch.d_model % 8 == 0 else 1
    return sorted({max(unit, round(arch.d_model * share / unit) * unit) for share in WIDTHS})


def judged_length(stem: OpSpec) -> int:
    """How many tokens a network with this stem reads at once where it is judged."""
    return int(min(JUDGED_TOKENS, stem.get("max_len", JUDGED_TOKENS)))


def parts_of(whole: int, count: int) -> list[int]:
    """1/count, 2/count, ... of `whole`, rounded, each once."""
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
    if arch.is_causal and not mixer["window"]:  # a window of its own is what the model was trained with
        windows = {judged_length(arch.stem) // part for part in WINDOWS}
        elastic["window"] = [0, *sorted(w for w in windows if w > 1)]
    return _table(mixer) | elastic


def _table(op: OpSpec) -> dict[str, Any]:
    return op.to_json()


def to_toml(data: dict[str, Any]) -> str:
    """The text of a space file: `data` holds values, tables of them, and lists of tables."""
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
