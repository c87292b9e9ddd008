"""Networks and operator settings as onnxruntime calls, ready to be timed.

Linear maps in the format int8_onnx are exported in native precision and then quantized by onnxruntime.

Calling a session costs some microseconds: once for a network, but once per operator for operators timed alone. A
session that only passes its input through is therefore timed with them, and its time is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from predictors.network_bench import stem_inputs
from predictors.onnx_graphs import Graphs
from predictors.onnx_int8 import with_int8
from predictors.onnx_network import forms, network_graph, part_graph
from predictors.onnx_parts import BATCH, LENGTH, Hole, Part, facts_read, filled, kind_of, mapped, outputs_of
from predictors.onnx_session import network_feeds, session, session_call
from predictors.operator_grid import Setting, activations, num_tokens, why_not_timed
from predictors.runtimes import ONNXRUNTIME, why_not
from predictors.timing import Call, Timing
from searchspace import registry
from searchspace.fold import fold, fold_affine
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.quantization.apply import quantized_parts
from searchspace.spec.arch import ArchSpec, QuantPolicy
from searchspace.spec.workload import Workload

IDLE = "only hands its input through: "
LEAST = 1e-4  # of the reference, less than any operation takes: a time must be above 0 to have a logarithm


def network_call(model: Model, workload: Workload, threads: int, graphs: Graphs) -> Call:
    """Return a call of the network in its exported form. Raises ValueError where onnxruntime can't run an operator."""
    check(workload, model.arch)
    maps = quantized_parts(model.arch)
    model = _native(model)
    inputs = stem_inputs(model.arch.stem, workload, workload.seq_len, "cpu")
    graph = network_graph(folded(model, inputs), inputs, graphs)
    made = session(with_int8(graph, maps) if maps else graph, threads)
    return session_call(made, network_feeds(made, inputs))


def folded(model: Model, inputs: Tensor) -> Model:
    """Return the network with its foldable norms folded into linear maps, as in an export; `inputs` [B, ...]."""
    with torch.no_grad():
        return fold_affine(fold(model.eval()), inputs)


def network_makers(
    models: Mapping[str, Model], workload: Workload, threads: int, graphs: Graphs
) -> dict[str, Callable[[], Call]]:
    """Return what makes the call of each network; the graphs of all parts are exported first, in few exports."""
    check(workload)
    wanted = []
    for model in models.values():
        inputs = stem_inputs(model.arch.stem, workload, workload.seq_len, "cpu")
        wanted += next(forms(folded(_native(model), inputs), inputs)).parts
    graphs.make(wanted)
    return {name: partial(network_call, model, workload, threads, graphs) for name, model in models.items()}


def _native(model: Model) -> Model:
    """The network in native precision with arbitrary weights, whose values do not affect the time."""
    return model if model.arch == model.arch.unquantized else Model(model.arch.unquantized)


def check(workload: Workload, arch: ArchSpec | None = None) -> None:
    """Raises ValueError for a workload or number formats that cannot be timed in onnxruntime."""
    reason = why_not(ONNXRUNTIME, "cpu", workload)
    for block in arch.blocks if arch is not None else ():
        reason = reason or why_not_timed(block.quant, workload, "cpu", ONNXRUNTIME)
    if reason is not None:
        raise ValueError(reason)


def setting_part(setting: Setting, workload: Workload) -> Part:
    """Return the setting in native precision as a part, with the inputs and facts that it gets in a network."""
    context = replace(setting.context, quant=QuantPolicy())
    module = registry.build(setting.slot, setting.spec, context).eval()
    T = num_tokens(setting, workload)
    if setting.slot == "stem":
        inputs, tokens = stem_inputs(setting.spec, workload, T, "cpu"), Tokens()
    else:
        inputs, tokens = activations(setting, workload, 0, T, "cpu")
    is_text = context.layout.grid is None and not (setting.slot == "stem" and inputs.is_floating_point())
    if is_text and not context.causal:
        tokens = tokens.replace(valid=torch.ones(inputs.shape[:2], dtype=torch.bool))
    length = LENGTH if is_text else T
    free = {
        id(inputs): (BATCH, length if is_text or setting.slot != "stem" else inputs.shape[1]),
        id(tokens.valid): (BATCH, length),
        id(tokens.positions): (length,),
        **{id(t): (length,) for t in tokens.rotary or ()},
    }
    given: list[Tensor] = []

    def hole(value: Any) -> Any:
        if isinstance(value, Hole):
            return value
        given.append(value)
        sizes = free.get(id(value), ())
        return Hole(len(given) - 1, (*sizes, *value.shape[len(sizes) :]), str(value.dtype))

    more: dict[str, tuple[Any, ...]] = {
        "mixer": (None,),
        "ffn": (None,),
        "norm": (None,),
        "stem": (0,),
        "transition": (None,),
    }
    name = f"{setting.slot} {setting.spec.op}"
    args = (inputs, facts_read(tokens.replace(progress=1.0), name), *more.get(setting.slot, ()))
    kind = kind_of(setting.slot, setting.spec, context.projection)
    part = Part(name, kind, module, mapped(args, hole), tuple(given))
    with torch.no_grad():
        known = {id(t) for t in (*given, *module.parameters())}
        found = outputs_of(module(*filled(part.args, part.inputs)))
    return replace(part, outputs=tuple(i for i, t in enumerate(found) if id(t) not in known))


def setting_makers(
    wanted: Sequence[Setting],
    workload: Workload,
    threads: int,
    graphs: Graphs,
    on_setting: Callable[[Setting], None] | None = None,
) -> tuple[dict[str, Callable[[], Call]], dict[str, str]]:
    """Return (call makers by setting and by idle session, one per shape; the idle session's name by setting).

    A maker raises ValueError for an operator that ONNX cannot express.
    """
    check(workload)
    parts = {s.key: setting_part(s, workload) for s in wanted}
    chosen = graphs.best([p for p in parts.values() if p.outputs])
    parts |= dict(zip([key for key, p in parts.items() if p.outputs], chosen, strict=True))
    makers: dict[str, Callable[[], Call]] = {}
    idle: dict[str, str] = {}
    for setting in wanted:
        part = parts[setting.key]
        idle[setting.key] = name = f"{IDLE}{list(part.inputs[0].shape)} {part.inputs[0].dtype}"
        makers.setdefault(name, partial(_idle_call, part, threads))
        makers[setting.key] = partial(_setting_call, setting, part, threads, graphs, on_setting)
    return makers, idle


def _setting_call(
    setting: Setting,
    part: Part,
    threads: int,
    graphs: Graphs,
    on_setting: Callable[[Setting], None] | None,
) -> Call:
    if on_setting is not None:
        on_setting(setting)
    if not part.outputs:  # rotary positions are passed on as facts
        return _idle_call(part, threads)
    roles = dict(setting.context.quant.roles)
    maps = [path for path, module in part.module.named_modules() if getattr(module, "role", "") in roles]
    graph = part_graph(part, graphs)
    return session_call(session(with_int8(graph, maps) if maps else graph, threads), part.inputs)


def _idle_call(part: Part, threads: int) -> Call:
    given = part.inputs[0]
    kind = onnx.helper.np_dtype_to_tensor_dtype(given.numpy().dtype)
    ends = [onnx.helper.make_tensor_value_info(name, kind, list(given.shape)) for name in ("in0", "out0")]
    node = onnx.helper.make_node("Identity", ["in0"], ["out0"])
    graph = onnx.helper.make_graph([node], "idle", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 20)]
    return session_call(
        session(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), threads), [given]
    )


def without_idle(timings: Mapping[str, Timing], idle: Mapping[str, str]) -> dict[str, Timing]:
    """Return the settings' timings minus the time of their idle session."""
    found = {}
    for key, timing in timings.items():
        if key in idle:
            off = timings[idle[key]].ratio
            sides = {n: max(getattr(timing, n) - off, LEAST) for n in ("ratio", "ratio_p10", "ratio_p90")}
            found[key] = replace(timing, **sides)
    return found


def why_not_run(settings: Sequence[Setting], workload: Workload, folder: Path | None) -> str | None:
    """Return a sentence naming an operator that onnxruntime can't run; None where it can run all of them.

    One setting of each operator is exported, and the result is cached below `folder`.
    """
    firsts: dict[str, Setting] = {}
    for setting in settings:
        reason = why_not_timed(setting.context.quant, workload, "cpu", ONNXRUNTIME)
        if reason is not None:
            return f"the space offers number formats, and {reason}; use eager"
        firsts.setdefault(kind_of(setting.slot, setting.spec, setting.context.projection), setting)
    parts = [p for p in (setting_part(s, workload) for s in firsts.values()) if p.outputs]
    graphs = Graphs(folder)
    reasons = dict.fromkeys(r for p in graphs.best(parts) if (r := graphs.why_not(p)) is not None)
    return f"{'; '.join(reasons)}; use eager" if reasons else None
