"""Whole networks in onnxruntime: put together from the graphs of their parts, with their own weights.

A network is run once while it is noted which part is called on what; between its parts a network only adds branches
to the residual stream. One that does more there, or whose parts are given facts that depend on the input, is exported
as a whole. The graph is for one batch and length, as a latency is; `nas.export.graph` writes those for every length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from predictors.onnx_parts import Graph, Graphs, Hole, Part, kind_of, mapped, outputs_of
from predictors.timing import Call
from searchspace.model import Model, parts
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec

INPUTS, LOGITS = "inputs", "logits"
ADDITIONS = {"add", "__add__"}


@dataclass(frozen=True)
class Step:
    """A part of the network at `path`, or without one an addition; values go in and come out by name."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    path: str = ""
    part: Part | None = None


def steps_of(model: Model, inputs: Tensor) -> list[Step]:
    """What a network does on inputs like these; its last output is `logits`."""
    other = inputs.flip(-1) if inputs.is_floating_point() else (inputs.max() - inputs)
    try:
        first, second = _noted(model, inputs), _noted(model, other)
        facts = [[s.part.key for s in steps if s.part is not None] for steps in (first, second)]
        if facts[0] == facts[1]:
            return first
    except _NotPlainError:
        pass
    hole = Hole(0, tuple(inputs.shape), str(inputs.dtype))
    return [Step((INPUTS,), (LOGITS,), "", Part("network", model.arch.id, model, (hole,), (inputs,)))]


def parts_of(model: Model, inputs: Tensor) -> list[Part]:
    return [step.part for step in steps_of(model, inputs) if step.part is not None]


def network_graph(model: Model, inputs: Tensor, graphs: Graphs) -> Any:
    """An ONNX model `inputs` -> `logits` that computes what the network computes on inputs of this shape.

    Raises NoGraphError naming the part that ONNX has no form of.
    """
    import onnx

    steps = steps_of(model.eval(), inputs)
    graphs.make([s.part for s in steps if s.part is not None])
    nodes: list[Any] = []
    weights: dict[str, Tensor] = {}
    constants: list[Any] = []
    opset: dict[str, int] = {}
    kinds: dict[str, Any] = {}
    for number, step in enumerate(steps):
        if step.part is None:
            nodes.append(onnx.helper.make_node("Add", step.inputs, step.outputs, name=f"add.{number}"))
            continue
        graph = graphs.of(step.part)
        opset |= {o.domain: max(o.version, opset.get(o.domain, 0)) for o in graph.model.opset_import}
        names = {f"in{j}": name for j, name in enumerate(step.inputs)}
        names |= {f"out{j}": name for j, name in enumerate(step.outputs)}
        for name in graph.weights:
            names[name] = f"{step.path}.{name}" if step.path else name
            weights[names[name]] = step.part.weights[name]
        for name in step.inputs:
            if name.startswith(WEIGHT):
                weights[name] = _named(model, name)
        added, kept = _placed(graph, names, f"{number}.")
        nodes += added
        constants += kept
        kinds |= {names[v.name]: v for v in (*graph.model.graph.input, *graph.model.graph.output)}
        version = graph.model.ir_version
    whole = onnx.helper.make_graph(
        nodes,
        "network",
        [_value(kinds[INPUTS], INPUTS)],
        [_value(kinds[LOGITS], LOGITS)],
        constants + [_tensor(name, value) for name, value in weights.items()],
    )
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in opset.items()]
    return onnx.helper.make_model(whole, opset_imports=imports, ir_version=version)


def part_graph(part: Part, graphs: Graphs) -> Any:
    """A part by itself as an ONNX model in0, in1, ... -> out0, ... with its weights. Raises NoGraphError."""
    import onnx

    graph = graphs.of(part)
    found = onnx.ModelProto()
    found.CopyFrom(graph.model)
    del found.graph.input[:]
    wanted = set(graph.weights)
    found.graph.input.extend(i for i in graph.model.graph.input if i.name not in wanted)
    found.graph.initializer.extend(_tensor(name, part.weights[name]) for name in graph.weights)
    return found


def session(model: Any, threads: int) -> Any:
    """An onnxruntime session on the CPU with its own default optimizations and `threads` threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait in a loop for the next call would take the cores from what is timed in alternation.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def session_call(made: Any, inputs: Sequence[Tensor]) -> Call:
    """One run on these inputs, ready to be timed; gives arrays of numpy."""
    given = {value.name: tensor.numpy() for value, tensor in zip(made.get_inputs(), inputs, strict=True)}
    return lambda: made.run(None, given)


# noting what a network does

WEIGHT = "weight:"


class _NotPlainError(Exception):
    """The network does more between its parts than to add."""


class _Notes(TorchFunctionMode):
    def __init__(self, model: Model, inputs: Tensor) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.depth = 0
        self.names = {id(inputs): INPUTS}
        self.kept: list[Tensor] = [inputs]  # an id is that of one tensor only while the tensor lives
        self.weights = {id(t): f"{WEIGHT}{n}" for n, t in model.named_parameters()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if self.depth or not isinstance(found, Tensor):
            return found
        known = [self.names.get(id(a)) for a in args if isinstance(a, Tensor)]
        if any(known):
            if func.__name__ not in ADDITIONS or not all(known) or len(known) != 2:
                raise _NotPlainError
            self.steps.append(Step(tuple(filter(None, known)), (self.new(found),)))
        return found

    def new(self, value: Tensor) -> str:
        self.kept.append(value)
        self.names[id(value)] = f"value.{len(self.kept)}"
        return self.names[id(value)]

    def called(
        self, path: str, what: str, kind: str, module: nn.Module, args: tuple[Any, ...], output: Any
    ) -> None:
        names: list[str] = []
        examples: list[Tensor] = []

        def hole(value: Any) -> Any:
            name = self.names.get(id(value)) or self.weights.get(id(value))
            if name is None:
                return value
            names.append(name)
            examples.append(value)
            return Hole(len(names) - 1, tuple(value.shape), str(value.dtype))

        facts = [
            replace(a, embedding=a.embedding if what.startswith("head ") else None)
            if isinstance(a, Tokens)
            else a
            for a in args
        ]
        args = mapped(tuple(facts), hole)
        outputs = outputs_of(output)
        if all(id(t) in self.names for t in outputs):
            return  # what goes in comes out, as where positions are facts that travel beside it
        if any(id(t) in self.names for t in outputs):
            raise _NotPlainError
        part = Part(what, kind, module, args, tuple(examples))
        self.steps.append(Step(tuple(names), tuple(self.new(t) for t in outputs), path, part))


def _noted(model: Model, inputs: Tensor) -> list[Step]:
    notes = _Notes(model, inputs)
    with _hooks(model, notes), notes, torch.no_grad():
        logits = model(inputs)[0]
    last = notes.names.get(id(logits))
    if last is None or last == INPUTS:
        raise _NotPlainError
    rename = {last: LOGITS}
    return [replace(s, outputs=tuple(rename.get(o, o) for o in s.outputs)) for s in notes.steps]


@contextmanager
def _hooks(model: Model, notes: _Notes) -> Iterator[None]:
    held = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if kwargs and not notes.depth:
            raise _NotPlainError
        notes.depth += 1

    def after(path: str, name: str, kind: str, module: nn.Module, args: Any, output: Any) -> None:
        notes.depth -= 1
        if not notes.depth:
            notes.called(path, name, kind, module, args, output)

    for path, slot, spec, projection, module in _leaves(model):
        name, kind = f"{slot} {spec.op}", kind_of(slot, spec, projection)
        held.append(module.register_forward_pre_hook(before, with_kwargs=True))
        held.append(module.register_forward_hook(partial(after, path, name, kind)))
    try:
        yield
    finally:
        for handle in held:
            handle.remove()


def _leaves(model: Model) -> Iterator[tuple[str, str, OpSpec, OpSpec, nn.Module]]:
    """(path, slot, operator, projection, module) of every operator of the network."""
    for name, slot, spec, context in parts(model.arch):
        part = model.part(name)
        if isinstance(spec, OpSpec):
            yield name, slot, spec, context.projection, part
            continue
        for inner, module in part.named_children():
            place = inner if inner in ("mixer", "ffn") else "norm"
            yield f"{name}.{inner}", place, getattr(spec, place), context.projection, module


# putting graphs together


def _placed(graph: Graph, names: Mapping[str, str], prefix: str) -> tuple[list[Any], list[Any]]:
    """(nodes, constants) of a part with the names that its values have in the network."""
    inner = graph.model.graph

    def renamed(name: str) -> str:
        return names.get(name, f"{prefix}{name}") if name else ""

    def copy(node: Any) -> Any:
        changed = type(node)()
        changed.CopyFrom(node)
        changed.name = f"{prefix}{node.name}"
        for side in (changed.input, changed.output):
            side[:] = [renamed(name) for name in side]
        for attribute in changed.attribute:
            for j, below in enumerate(attribute.g.node):
                attribute.g.node[j].CopyFrom(copy(below))
            for value in (*attribute.g.input, *attribute.g.output, *attribute.g.initializer):
                value.name = renamed(value.name)
        return changed

    constants = []
    for tensor in inner.initializer:
        kept = type(tensor)()
        kept.CopyFrom(tensor)
        kept.name = renamed(tensor.name)
        constants.append(kept)
    return [copy(node) for node in inner.node], constants


def _named(model: Model, name: str) -> Tensor:
    found: Tensor = model.get_parameter(name.removeprefix(WEIGHT))
    return found


def _tensor(name: str, value: Tensor) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name)


def _value(value: Any, name: str) -> Any:
    changed = type(value)()
    changed.CopyFrom(value)
    changed.name = name
    return changed
