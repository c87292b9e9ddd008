"""The model card of an extracted network: description, measurements and how to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchspace.cost import cost
from searchspace.model import Model
from searchspace.spec.arch import ONNX_INT8, ArchSpec
from searchspace.spec.workload import Workload

SIMULATED = "run.py simulates onnxruntime's int8 in float32: its outputs are the same, its latency is not"


def text(model: Model, config: Mapping[str, Any]) -> str:
    """The card in Markdown, from the config that is written beside the weights."""
    about = config["about"]
    parameters = cost(model.arch, Workload()).parameters
    cut = ", cut out of a weight-sharing supernet" if about.get("supernet") else ""
    sections = [
        f"# {about.get('study', 'network')} / {origin(about)}\n",
        f"A network of {parameters:,} parameters found by a search of space `{about.get('space', '?')}` "
        f"(architecture `{config['arch_id']}`){cut}.\n",
        "## Run it\n\n```\npython run.py\n```\n\nIt only needs torch. `network/` is the model's own code.\n",
        "## Numbers\n\n" + _table(("quantity", "value", "how it is known"), _numbers(config)),
        "## Measured\n\n"
        + _table(
            ("quantity", "median", "p10 - p90", "samples", "runs in", "device", "workload"), _measured(config)
        ),
        "## Other forms\n\n"
        + _table(("file", "runs in", "length", "difference", "greedy steps"), _forms(config))
        + "".join(f"\n{sentence}.\n" for e in config["exports"] for sentence in e["limits"]),
        "## Layers\n\n"
        + _table(("block", "mixer", "ffn", "norm", "placement", "formats"), _layers(model.arch))
        + (f"\n{SIMULATED}.\n" if ONNX_INT8 in model.arch.formats and not config["exports"] else ""),
        "## Where it comes from\n\n" + "".join(f"- {n}: {v}\n" for n, v in about.items() if n != "sources"),
    ]
    return "\n".join(section for section in sections if not section.endswith("\n\n")) + "\n"


def origin(about: Mapping[str, Any]) -> str:
    """The origin of the network in its study: a trial, or another description."""
    return f"trial {about['trial']}" if "trial" in about else str(about.get("from", "network"))


def _forms(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each further format: its sequence length and its agreement with the network."""
    rows: list[tuple[str, ...]] = []
    for e in config["exports"][1:]:
        length = f"{e['length']} tokens" if e["length"] else "any"
        steps = f"{e['agreed']} of {e['decoded']} the same" if e["decoded"] else "-"
        rows.append((e["file"], e["implementation"], length, f"{e['difference']:.2g}", steps))
    return rows


def _numbers(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    sources = config["about"].get("sources", {})
    return [(name, f"{value:.6g}", sources.get(name, "")) for name, value in config["numbers"].items()]


def _measured(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    forms = [e["latency"] for e in config["exports"] if e["latency"]]
    for m in (*config["measurements"], *forms):
        w = m["workload"]
        spread = f"{m['p10']:.4g} - {m['p90']:.4g}" if m["p10"] is not None else ""
        workload = f"{w['phase']}, batch {w['batch_size']}, {w['seq_len']} tokens, {w['dtype']}"
        rows.append(
            (
                m["quantity"],
                f"{m['value']:.4g} {m['unit']}",
                spread,
                str(m["samples"]),
                m["implementation"],
                m["device"],
                workload,
            )
        )
    return rows


def _layers(arch: ArchSpec) -> list[tuple[str, ...]]:
    return [
        (str(i), str(b.mixer), str(b.ffn), str(b.norm), b.placement, str(b.quant))
        if b.is_active
        else (str(i), "-", "-", "-", "-", "-")
        for i, b in enumerate(arch.blocks)
    ]


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
