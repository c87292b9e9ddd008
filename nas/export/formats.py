"""Further file formats of an extracted network, each checked to compute what the network computes.

    onnx           model.onnx, for onnxruntime and others       one graph, see nas.export.graph
                   decode.onnx, for a decoder                   one decoding step, see nas.export.decoding
                   run_onnx.py                                  runs both from text, without torch
    onnx-int8      model.int8.onnx, decode.int8.onnx            both with linear maps in int8, see nas.export.int8
    torch-export   model.pt2, for torch.export.load             one graph
    aotinductor    model.aoti.pt2, for run.py --compiled        the graph as machine code, see nas.export.compiled_file
    transformers   transformers/                                for networks that are a Llama, see nas.export.llama
    gguf           model.gguf                                   for a Llama; read back, but not run by other programs

The check is the largest difference of outputs on held-out examples (in a batch, alone and, if the graph accepts them,
with other lengths and padding); for a causal network also up to 64 greedy steps, where the network decodes with its
state and the file reads the whole text in each step. The file's latency is timed in alternation with the network.
int8 changes the outputs, so it is checked by its loss against the network's and by the cosine of their outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from nas.errors import ArtifactError, UsageError
from nas.export.card import SIMULATED
from nas.export.compiled_file import check_compiler, compiler, package, where_it_runs, write_compiled
from nas.export.decoding import write_decoding
from nas.export.gguf_file import NO_TOKENIZER, write_gguf
from nas.export.graph import Graph, Run, given, trace, write_program
from nas.export.int8 import check_as_judged, quality, write_int8
from nas.export.llama import why_not_llama, write_llama
from nas.export.onnx_file import runner, write_onnx
from nas.export.proof import proven, proven_steps
from nas.machine import measuring
from nas.tasks.base import Batch
from predictors.network_bench import network_call, reference_call, stem_inputs, to_measurements
from predictors.onnx_session import session, session_call
from predictors.timing import Call, num_threads, time_interleaved
from searchspace.model import Model
from searchspace.quantization.apply import quantized_parts, read_back
from searchspace.spec.arch import ONNX_INT8, ArchSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.reading import unknown
from searchspace.spec.workload import Workload

FORMATS = ("folder", "onnx", "onnx-int8", "torch-export", "aotinductor", "transformers", "gguf")
FILES = {
    "onnx": "model.onnx",
    "onnx-int8": "model.int8.onnx",
    "torch-export": "model.pt2",
    "aotinductor": "model.aoti.pt2",
    "transformers": "transformers",
    "gguf": "model.gguf",
}
RUNS_IN = {
    "onnx": "onnxruntime",
    "onnx-int8": "onnxruntime",
    "torch-export": "torch",
    "aotinductor": "torch",
    "transformers": "transformers",
    "gguf": "gguf",
}
GRAPHS = {"onnx", "onnx-int8", "torch-export", "aotinductor"}
DECODE, DECODE_INT8, RUN_ONNX = "decode.onnx", "decode.int8.onnx", "run_onnx.py"
EXAMPLES = 4
SECONDS = 20.0


@dataclass(frozen=True)
class Export:
    """One written file; the first export of a folder describes the folder itself.

    `length` is the fixed sequence length, None for any length. `inputs` are the names of a graph's inputs, `limits`
    sentences on inputs that the file does not accept and on missing files. `difference` is the largest absolute
    difference of outputs. In `agreed` of `decoded` greedy steps the file and the network chose the same token; in the
    others the logits of both tokens were equal within the tolerance. `quality` has loss, float_loss and cosine of int8.
    """

    format: str
    file: str
    implementation: str
    length: int | None = None
    limits: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    difference: float = 0.0
    decoded: int = 0
    agreed: int = 0
    latency: Measurement | None = None
    quality: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_formats(formats: Sequence[str], arch: ArchSpec) -> None:
    """Raises UsageError for an unknown format, and for one that does not support the network or this machine."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format: {unknown(name, FORMATS)}")
    if "aotinductor" in formats:
        check_compiler()
    others = [name for name in formats if name not in ("folder", "onnx-int8")]
    if others and arch.formats == (ONNX_INT8,):
        raise UsageError(
            f"--format {others[0]}: this network has maps in {ONNX_INT8}; use --format onnx-int8"
        )
    if formats and arch.formats not in ((), (ONNX_INT8,)):
        raise UsageError(
            f"--format {formats[0]}: only the folder itself supports quantized numbers, which this network has; "
            "choose a trial without them, or leave --format out"
        )
    of_llamas = [name for name in ("transformers", "gguf") if name in formats]
    reason = why_not_llama(arch) if of_llamas else None
    if reason is not None:
        raise UsageError(
            f"--format {of_llamas[0]}: {reason}; use --format onnx or torch-export, or search with --servable"
        )


def write_exports(
    folder: Path,
    model: Model,
    formats: Sequence[str],
    validation: Sequence[Batch],
    workload: Workload,
    nominal_ms: float | None = None,
) -> list[Export]:
    """Write each of `formats` to `folder` and check it on the longest batch of held-out examples.

    onnx-int8 also writes the float ONNX file. Latencies are scaled to the reference latency `nominal_ms` of a profile,
    by default to the one of this run. Raises ArtifactError if a file does not compute what the network computes, and
    UsageError if a format can't express the network.
    """
    if model.arch.formats == (ONNX_INT8,) and "onnx-int8" in formats:
        return _with_judged_int8(folder, model.cpu().eval(), validation, workload, nominal_ms)
    asked = {*formats, "onnx"} if "onnx-int8" in formats else {*formats}
    wanted = [name for name in FORMATS if name in asked and name in FILES]
    if not wanted:
        return []
    inputs = max((batch.inputs for batch in validation), key=lambda t: t.shape[1])
    rows = torch.arange(EXAMPLES) % len(
        inputs
    )  # several rows, since torch.export specializes on a batch of one
    examples = inputs[rows].contiguous()  # and on the strides of rows
    model = model.cpu().eval()
    graph = trace(model, examples) if GRAPHS & set(wanted) else None
    exports = [Export("folder", "model.safetensors", f"torch {version('torch')}")]
    runs = {}
    for name in wanted:
        path = folder / FILES[name]
        if name == "onnx-int8":
            assert graph is not None
            runs[name], found = _in_int8(folder, model, graph, validation, exports[-1])
            exports += found
            continue
        fixed = graph if name in GRAPHS else None
        runs[name] = run = _write(name, model, graph, examples, path)
        proof = proven(path, model, run, examples, fixed)
        made = Export(name, path.name, _made_with(name), difference=proof.difference)
        made = replace(made, inputs=fixed.inputs if fixed else ())
        exports.append(replace(made, decoded=proof.decoded, agreed=proof.agreed, **_limits(path, fixed)))
        if name == "gguf":
            del runs[name]  # computed by torch from the file's tensors, so it has no latency of its own
            exports[-1] = replace(exports[-1], limits=(NO_TOKENIZER,))
        if name == "aotinductor":
            exports[-1] = replace(exports[-1], limits=(*exports[-1].limits, where_it_runs(path)))
        if name == "onnx":
            exports += _beside_onnx(folder, model, examples, exports.pop())
    timed = _timed(folder, model, runs, workload, graph, nominal_ms)
    whole = (DECODE, DECODE_INT8)
    return [e if e.file in whole else replace(e, latency=timed.get(e.format)) for e in exports]


def _write(name: str, model: Model, graph: Graph | None, inputs: Tensor, path: Path) -> Run:
    if name == "transformers":
        return write_llama(model, path)
    if name == "gguf":
        return write_gguf(model, path)
    assert graph is not None
    if name == "aotinductor":
        return write_compiled(graph, path)
    return write_onnx(graph, inputs, path) if name == "onnx" else write_program(graph, path)


def _made_with(name: str) -> str:
    return f"{RUNS_IN[name]} {version(RUNS_IN[name])}"


def _limits(path: Path, graph: Graph | None) -> dict[str, Any]:
    """The inputs that a graph does not accept, as fields of an Export."""
    if graph is None:
        return {}
    said = []
    if graph.length is not None:
        said.append(f"{path.name} only accepts sequences of {graph.length} tokens: {graph.reason}")
    if graph.unpadded:
        said.append(f"{path.name} only accepts sequences without padding: {graph.unpadded}")
    return {"length": graph.length, "limits": tuple(said)}


def _beside_onnx(folder: Path, model: Model, examples: Tensor, whole: Export) -> list[Export]:
    """Write run_onnx.py and, for a decoder, the decoding step; `whole` is the export of the graph over a sequence."""
    text = files("nas.export").joinpath("templates", RUN_ONNX).read_text(encoding="utf-8")
    (folder / RUN_ONNX).write_text(text, encoding="utf-8")
    if not model.arch.is_causal:
        return [whole]
    path = folder / DECODE
    try:
        start = write_decoding(model, examples[:1], path)
        proof = proven_steps(path, model, start(), examples)
    except (UsageError, ArtifactError) as error:
        path.unlink(missing_ok=True)
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        mixers = ", ".join(dict.fromkeys(b.mixer.op for b in model.arch.blocks if b.is_active))
        said = f"there is no {DECODE} for this network of {mixers}: {str(error).splitlines()[0]}"
        return [replace(whole, limits=(*whole.limits, said))]
    step = Export("onnx", DECODE, _made_with("onnx"), difference=proof.difference)
    step = replace(step, decoded=proof.decoded, agreed=proof.agreed)
    return [whole, step]


def _in_int8(
    folder: Path, model: Model, graph: Graph, validation: Sequence[Batch], last: Export
) -> tuple[Run, list[Export]]:
    """Write the network and, if `last` is the export of its decoding step, the step in int8."""
    path = folder / FILES["onnx-int8"]
    maps = write_int8(folder / FILES["onnx"], path)
    run = runner(graph, path)
    found = quality(run, model, validation)
    said = (
        f"{path.name} has the loss {found['loss']:.5g}, the float network {found['float_loss']:.5g}, and their outputs "
        f"a mean cosine of {found['cosine']:.6f}: {maps} maps in int8"
    )
    more = _limits(path, graph)
    whole = Export("onnx-int8", path.name, _made_with("onnx-int8"), quality=found, **more)
    exports = [replace(whole, limits=(*whole.limits, said))]
    if last.file == DECODE:
        write_int8(folder / DECODE, folder / DECODE_INT8)
        exports.append(Export("onnx-int8", DECODE_INT8, _made_with("onnx-int8")))
    return run, exports


def _with_judged_int8(
    folder: Path, model: Model, validation: Sequence[Batch], workload: Workload, nominal_ms: float | None
) -> list[Export]:
    """Write a network that was evaluated with maps in int8 as an ONNX file with exactly these maps in int8."""
    inputs = max((batch.inputs for batch in validation), key=lambda t: t.shape[1])
    examples = inputs[torch.arange(EXAMPLES) % len(inputs)].contiguous()
    native, path = read_back(model), folder / FILES["onnx-int8"]
    graph = trace(native, examples)
    with TemporaryDirectory() as beside:
        write_onnx(graph, examples, Path(beside, FILES["onnx"]))
        maps = write_int8(Path(beside, FILES["onnx"]), path, quantized_parts(model.arch))
    run = runner(graph, path)
    found = quality(run, model, validation)
    check_as_judged(path, found)
    text = files("nas.export").joinpath("templates", RUN_ONNX).read_text(encoding="utf-8")
    (folder / RUN_ONNX).write_text(text, encoding="utf-8")
    said = (
        f"{path.name} has {maps} maps in int8, as the network was judged: its loss is {found['loss']:.5g}, that of the "
        f"folder, which simulates int8 in torch, {found['float_loss']:.5g}; their outputs have a mean "
        f"cosine of {found['cosine']:.6f}"
    )
    limits = _limits(path, graph)
    whole = Export("onnx-int8", path.name, _made_with("onnx-int8"), quality=found, **limits)
    timed = _timed(folder, model, {"onnx-int8": run}, workload, graph, nominal_ms)
    own = Export("folder", "model.safetensors", f"torch {version('torch')}")
    return [own, replace(whole, limits=(*whole.limits, said, SIMULATED), latency=timed.get("onnx-int8"))]


def _timed(
    folder: Path,
    model: Model,
    runs: dict[str, Run],
    workload: Workload,
    graph: Graph | None,
    nominal_ms: float | None,
) -> dict[str, Measurement]:
    """Latency on one CPU thread of the network itself and of each format that accepts the workload's length.

    As for finalists, only the session of an ONNX file is timed, without conversions between tensors and arrays; of a
    compiled file only its own call.
    """
    if workload.phase != "forward" or workload.dtype != "float32":
        return {}
    inputs = stem_inputs(model.arch.stem, workload, workload.seq_len, "cpu")
    fixed = graph.length if graph is not None else None
    fit = [name for name in runs if name not in GRAPHS or fixed in (None, workload.seq_len)]
    calls: dict[str, Call] = {name: partial(runs[name], inputs) for name in fit}
    is_simulated = ONNX_INT8 in model.arch.formats  # then the latency in torch says nothing
    if graph is not None:
        feeds = list(given(graph, inputs).values())
        files = {name: folder / FILES[name] for name in fit if RUNS_IN[name] == "onnxruntime"}
        calls |= {name: session_call(session(path, 1), feeds) for name, path in files.items()}
        if "aotinductor" in fit:
            calls["aotinductor"] = partial(package(folder / FILES["aotinductor"]), *feeds)
    if is_simulated and not calls:
        return {}
    with measuring("cpu"), num_threads(1):
        if not is_simulated:
            calls["folder"] = network_call(model, workload, "cpu")
        timings = time_interleaved(calls, reference_call("cpu"), seconds=SECONDS)
        found = to_measurements(timings, workload, "cpu", 1, nominal_ms, 0)
    ran_in = {**RUNS_IN, "onnx-int8": "onnxruntime int8", "folder": "eager", "aotinductor": "compiled"}
    made_by = {"aotinductor": compiler()} if "aotinductor" in calls else {}
    return {
        m.subject: replace(
            m,
            subject=model.arch.id,
            implementation=ran_in[m.subject],
            software=", ".join(filter(None, (m.software, made_by.get(m.subject)))),
        )
        for m in found
    }
