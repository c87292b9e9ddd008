"""Other forms of an extracted network beside its folder, each proven to compute what the network computes.

    onnx           model.onnx, for onnxruntime and others       inputs -> logits
    torch-export   model.pt2, for torch.export.load             inputs -> logits
    transformers   transformers/, a Llama, where the network is one

The proof: the largest difference of logits on held-out examples, of all of them and of one alone; for a causal network
64 greedy steps, or as many as it takes tokens, the network with its decoding state, the file over the whole text each
time; and the latency of the file, timed in alternation with the network itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import ArtifactError, UsageError
from nas.export.graph import Graph, Run, trace, write_onnx, write_program
from nas.export.llama import why_not_llama, write_llama
from nas.machine import measuring
from predictors.network_bench import network_call, reference_call, stem_inputs, to_measurements
from predictors.timing import Call, num_threads, time_interleaved
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.reading import unknown
from searchspace.spec.workload import Workload

FORMATS = ("folder", "onnx", "torch-export", "transformers")
FILES = {"onnx": "model.onnx", "torch-export": "model.pt2", "transformers": "transformers"}
RUNS_IN = {"onnx": "onnxruntime", "torch-export": "torch", "transformers": "transformers"}
GRAPHS = {"onnx", "torch-export"}
TOLERANCE = 1e-4
DECODED = 64
EXAMPLES = 4
SECONDS = 20.0


@dataclass(frozen=True)
class Export:
    """One written form, and first the folder's own. `length` is the sequence length that it is fixed to, with the
    reason; None where it is free.

    `agreed` of `decoded` greedy steps chose the very token; in the others, two tokens were as good as equal.
    """

    format: str
    file: str
    implementation: str
    length: int | None = None
    reason: str = ""
    difference: float = 0.0
    decoded: int = 0
    agreed: int = 0
    latency: Measurement | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_formats(formats: Sequence[str], arch: ArchSpec) -> None:
    """Raises UsageError for a format that is unknown, or that the network can't have."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format: {unknown(name, FORMATS)}")
    if formats and arch != arch.unquantized:
        raise UsageError(
            f"--format {formats[0]}: other forms than the folder's own take native numbers, "
            "this network has quantized ones; choose a trial without, or leave --format out"
        )
    reason = why_not_llama(arch) if "transformers" in formats else None
    if reason is not None:
        raise UsageError(f"--format transformers: {reason}; use --format onnx or torch-export")


def write_exports(
    folder: Path,
    model: Model,
    formats: Sequence[str],
    inputs: Tensor,
    workload: Workload,
    nominal_ms: float | None = None,
) -> list[Export]:
    """Write each of `formats` to `folder` and prove it on the examples `inputs`.

    Latencies are stated at the reference latency `nominal_ms`, a profile's, or without one at this run's own.
    Raises ArtifactError where a file does not compute what the network computes.
    """
    wanted = [name for name in FORMATS if name in formats and name in FILES]
    if not wanted:
        return []
    examples = inputs[:EXAMPLES].contiguous()  # a graph would take the steps between rows for a law
    model = model.cpu().eval()
    graph = trace(model, examples) if GRAPHS & set(wanted) else None
    exports = [Export("folder", "model.safetensors", f"torch {version('torch')}")]
    runs = {}
    for name in wanted:
        path = folder / FILES[name]
        runs[name] = run = _write(name, model, graph, examples, path)
        fixed = graph if name in GRAPHS else None
        exports.append(_proven(name, path, model, run, examples, fixed))
    timed = _timed(model, runs, workload, graph, nominal_ms)
    return [replace(e, latency=timed.get(e.format)) for e in exports]


def _write(name: str, model: Model, graph: Graph | None, inputs: Tensor, path: Path) -> Run:
    if name == "transformers":
        return write_llama(model, path)
    assert graph is not None
    return write_onnx(graph, inputs, path) if name == "onnx" else write_program(graph, path)


@torch.inference_mode()
def _proven(name: str, path: Path, model: Model, run: Run, inputs: Tensor, graph: Graph | None) -> Export:
    length = graph.length if graph else None
    scale, difference = 1.0, 0.0
    for some in (inputs, inputs[:1]):
        ours = model(some)[0]
        scale = max(scale, float(ours.abs().max()))
        difference = max(difference, float((run(some) - ours).abs().max()))
    if not difference <= TOLERANCE * scale:
        raise ArtifactError(f"{path}: logits differ from the extracted network's by {difference:.3g}")
    decoded, agreed = _decode(path, model, run, inputs[:1], length, 2 * TOLERANCE * scale)
    made_with = f"{RUNS_IN[name]} {version(RUNS_IN[name])}"
    reason = graph.reason if graph else ""
    return Export(name, path.name, made_with, length, reason, difference, decoded, agreed)


def _decode(
    path: Path, model: Model, run: Run, inputs: Tensor, length: int | None, slack: float
) -> tuple[int, int]:
    """(greedy steps, steps in which both choose the same token); 0 steps where the network does not decode.

    Where the two differ, the network must find the other's token as good as its own within `slack`, and goes on with
    its own.
    """
    if not model.arch.is_causal:
        return 0, 0
    steps = min(DECODED, length or DECODED, model.arch.stem.get("max_len", DECODED))
    ids, agreed = inputs[:, :1], 0
    try:
        state = model.init_state(1)
    except ValueError:  # a transition that sees the whole sequence at once
        return 0, 0
    for step in range(steps):
        logits, state = model(ids[:, -1:], state=state)
        ours = logits[0, -1]
        padded = ids if length is None else torch.nn.functional.pad(ids, (0, length - ids.shape[1]))
        best, other = int(ours.argmax()), int(run(padded)[0, step].argmax())
        if ours[best] - ours[other] > slack:
            raise ArtifactError(f"{path}: greedy step {step} gives token {other}, the network gives {best}")
        agreed += best == other
        ids = torch.cat((ids, torch.tensor([[best]])), 1)
    return steps, agreed


def _timed(
    model: Model, runs: dict[str, Run], workload: Workload, graph: Graph | None, nominal_ms: float | None
) -> dict[str, Measurement]:
    """Latency on one CPU thread of the network itself and of each run that takes the workload's length."""
    if workload.phase != "forward" or workload.dtype != "float32":
        return {}
    inputs = stem_inputs(model.arch.stem, workload, workload.seq_len, "cpu")
    fixed = graph.length if graph is not None else None
    fit = [name for name in runs if name not in GRAPHS or fixed in (None, workload.seq_len)]
    calls: dict[str, Call] = {name: partial(runs[name], inputs) for name in fit}
    with measuring("cpu"), num_threads(1):
        calls["folder"] = network_call(model, workload, "cpu")
        timings = time_interleaved(calls, reference_call("cpu"), seconds=SECONDS)
        found = to_measurements(timings, workload, "cpu", 1, nominal_ms, 0)
    ran_in = {**RUNS_IN, "folder": "eager"}
    return {m.subject: replace(m, subject=model.arch.id, implementation=ran_in[m.subject]) for m in found}
