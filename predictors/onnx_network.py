"""Whole networks as ONNX graphs, assembled from the graphs of their parts and the network's weights.

The network runs twice while each call of a part is recorded; the second run has other tokens, another length and
another batch size. What is equal in both runs is a constant of the network, and a size that differs is free. Between
its parts a network may only add branches to the residual stream; any other network is exported as a whole.

The graph has the interface of the one that `nas.export.graph` writes: the same inputs, a padding mask for a text
encoder, any batch size, and any length where all parts can be traced that way. Sizes that a part reads are taken from
the inputs of the network, so that onnxruntime computes what depends on them once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from predictors.onnx_graphs import Graph, Graphs, NoGraphError, needed, renamed_value
from predictors.onnx_parts import (
    BATCH,
    LENGTH,
    Hole,
    Part,
    described,
    facts_read,
    kind_of,
    mapped,
    outputs_of,
)
from searchspace.model import Model, parts
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec, OpSpec

IDS, PIXELS, MASK, VALID, LOGITS = "input_ids", "pixel_values", "attention_mask", "valid", "logits"
ADDITIONS = {"add", "__add__"}


def reads_both_sides(arch: ArchSpec) -> bool:
    """Return whether this is a text encoder, whose outputs depend on padding unless a mask marks it."""
    return arch.stem.op == "token_embedding" and not arch.is_causal


def input_name(arch: ArchSpec) -> str:
    return PIXELS if arch.stem.get("image_size") is not None else IDS


@dataclass(frozen=True)
class Step:
    """A call of the part at `path`, or an addition where `part` is None; inputs and outputs are names of values."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    path: str = ""
    part: Part | None = None


@dataclass(frozen=True)
class Form:
    """The steps that make up a network's graph, with or without a padding mask; the last output is `logits`."""

    steps: tuple[Step, ...]
    takes_mask: bool

    @property
    def parts(self) -> list[Part]:
        return [step.part for step in self.steps if step.part is not None]

    @property
    def fixed(self) -> Form:
        """This form with all sizes but the batch fixed to those of the examples."""
        return replace(
            self, steps=tuple(replace(s, part=s.part.fixed) if s.part is not None else s for s in self.steps)
        )


def forms(model: Model, inputs: Tensor) -> Iterator[Form]:
    """Yield the forms of a network on inputs [B, ...], in the order in which `nas.export.graph` tries them."""
    length = 0 if inputs.is_floating_point() else inputs.shape[1]
    for takes_mask in (True, False) if reads_both_sides(model.arch) else (False,):
        whole = Form((_as_one(model, inputs, takes_mask),), takes_mask)
        plain = _plain(model, inputs, takes_mask, max(2, length - 1))
        yield plain or whole
        if length:
            yield (plain or _plain(model, inputs, takes_mask, length) or whole).fixed


def _plain(model: Model, inputs: Tensor, takes_mask: bool, cut: int) -> Form | None:
    """Form from runs at full length and at `cut` tokens, whose differing sizes are free; None for other networks."""
    is_text, name = not inputs.is_floating_point(), input_name(model.arch)
    first, more = (inputs.index_select(0, torch.arange(rows) % len(inputs)) for rows in (2, 3))
    other = (inputs.max() - more)[:, :cut].contiguous() if is_text else more.flip(-1)
    try:
        one, two = (_noted(model, given, name, takes_mask) for given in (first, other))
        return Form(tuple(_free(one, two, inputs.shape[1], cut)), takes_mask)
    except Exception:  # a network may fail in any way at a length it does not support
        return None


def _as_one(model: Model, inputs: Tensor, takes_mask: bool) -> Step:
    """The network as a single part."""
    is_text = not inputs.is_floating_point()
    shape = (BATCH, LENGTH) if is_text else (BATCH, *inputs.shape[1:])
    given: list[Tensor] = [inputs]
    args: list[Any] = [Hole(0, shape, str(inputs.dtype))]
    if takes_mask:
        given.append(torch.ones(inputs.shape, dtype=torch.bool))
        valid: Any = Hole(1, shape, "torch.bool")
        args.append(Tokens(valid=valid))
    part = Part("network", model.arch.id, model, tuple(args), tuple(given))
    return Step((input_name(model.arch), VALID)[: len(given)], (LOGITS,), "", part)


def _free(first: list[Step], second: list[Step], length: int, cut: int) -> list[Step]:
    """Steps with a name for each size that differs between the runs. Raises _NotPlainError for unexpected sizes."""
    names = {(2, 3): BATCH, (length, cut): LENGTH}

    def merged(one: Part, other: Part) -> Part:
        def size(a: int | str, b: int | str) -> int | str:
            if a != b and (a, b) not in names:
                raise _NotPlainError
            return a if a == b else names[a, b]  # type: ignore[index]

        def hole(value: Any) -> Any:
            if not isinstance(value, Hole):
                return value
            sizes = zip(value.shape, other.shapes[value.index], strict=True)
            return replace(value, shape=tuple(size(a, b) for a, b in sizes))

        if len(one.shapes) != len(other.shapes) or _without_holes(one) != _without_holes(other):
            raise _NotPlainError
        return replace(one, args=mapped(one.args, hole))

    def step(one: Step, other: Step) -> Step:
        if (one.path, one.inputs, one.outputs) != (other.path, other.inputs, other.outputs):
            raise _NotPlainError
        return (
            one if one.part is None or other.part is None else replace(one, part=merged(one.part, other.part))
        )

    if len(first) != len(second):
        raise _NotPlainError
    return [step(one, other) for one, other in zip(first, second, strict=True)]


def _without_holes(part: Part) -> Any:
    """Everything about a part's call except the sizes of its holes."""
    return described(mapped(part.args, lambda v: replace(v, shape=()) if isinstance(v, Hole) else v))


def network_graph(model: Model, inputs: Tensor, graphs: Graphs) -> Any:
    """Return an ONNX model of the network, from ids [B, T] or pixels [B, C, S, S] and maybe a mask [B, T] to `logits`.

    `inputs` are an example batch [B, ...]. Raises NoGraphError naming a part that ONNX cannot express.
    """
    for form in forms(model.eval(), inputs):
        graphs.make(form.parts)
        reasons = [reason for part in form.parts if (reason := graphs.why_not(part)) is not None]
        if not reasons:
            return _put_together(model, form, graphs)
    raise NoGraphError(reasons[0])


def _put_together(model: Model, form: Form, graphs: Graphs) -> Any:
    import onnx

    entry = input_name(model.arch)
    nodes: list[Any] = []
    weights: dict[str, Tensor] = {}
    constants: list[Any] = []
    opset: dict[str, int] = {}
    values: list[Any] = []
    shared: dict[bytes, str] = {}
    version = 0
    for number, step in enumerate(form.steps):
        if step.part is None:
            nodes.append(onnx.helper.make_node("Add", step.inputs, step.outputs, name=f"add.{number}"))
            continue
        graph = graphs.of(step.part)
        opset |= {o.domain: max(o.version, opset.get(o.domain, 0)) for o in graph.model.opset_import}
        version = max(version, graph.model.ir_version)
        names = {f"in{j}": name for j, name in enumerate(step.inputs)}
        names |= {f"out{j}": name for j, name in enumerate(step.outputs)}
        for name in graph.weights:
            names[name] = f"{step.path}.{name}" if step.path else name
            weights[names[name]] = step.part.weights[name]
        for name in step.inputs:
            if name.startswith(WEIGHT):
                weights[name] = _named(model, name)
        added, kept, seen = _placed(graph, names, f"{number}.", step.part, entry, shared)
        nodes += added
        constants += kept
        values += seen
    kinds = {IDS: onnx.TensorProto.INT64, PIXELS: onnx.TensorProto.FLOAT}
    sizes = (BATCH, LENGTH) if entry == IDS else (BATCH, *form.parts[0].shapes[0][1:])
    takes = [onnx.helper.make_tensor_value_info(entry, kinds[entry], sizes)]
    if form.takes_mask:
        takes.append(onnx.helper.make_tensor_value_info(MASK, onnx.TensorProto.INT64, sizes))
        constants.append(onnx.numpy_helper.from_array(torch.tensor(0).numpy(), "padding"))
        nodes[:0] = [
            onnx.helper.make_node("Equal", [MASK, "padding"], ["is_padding"]),
            onnx.helper.make_node("Not", ["is_padding"], [VALID]),
        ]
    nodes, used = needed(nodes, [LOGITS])  # drops unused values, such as positions that nothing reads
    whole = onnx.helper.make_graph(
        nodes,
        "network",
        takes,
        [onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None)],
        [c for c in constants if c.name in used] + [_tensor(n, t) for n, t in weights.items() if n in used],
        value_info=[v for v in values if v.name in used - {LOGITS}],
    )
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in opset.items()]
    return onnx.helper.make_model(whole, opset_imports=imports, ir_version=version)


def part_graph(part: Part, graphs: Graphs) -> Any:
    """Return one part as an ONNX model in0, in1, ... -> out0, ... with its weights. Raises NoGraphError."""
    import onnx

    graph = graphs.of(part)
    found = onnx.ModelProto()
    found.CopyFrom(graph.model)
    del found.graph.input[:]
    wanted = set(graph.weights)
    found.graph.input.extend(i for i in graph.model.graph.input if i.name not in wanted)
    found.graph.initializer.extend(_tensor(name, part.weights[name]) for name in graph.weights)
    return found


# recording what a network does

WEIGHT = "weight:"


class _NotPlainError(Exception):
    """The network does something other than additions between its parts."""


class _Notes(TorchFunctionMode):
    def __init__(self, model: Model, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.depth = 0
        self.names = {id(value): name for name, value in given.items()}
        self.kept = list(given.values())  # keeps tensors alive, so that their ids stay unique
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
        self,
        path: str,
        what: str,
        kind: str,
        module: nn.Module,
        args: tuple[Any, ...],
        output: Any,
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

        facts = [facts_read(a, what) if isinstance(a, Tokens) else a for a in args]
        args = mapped(tuple(facts), hole)
        outputs = outputs_of(output)
        places = tuple(i for i, t in enumerate(outputs) if id(t) not in {**self.names, **self.weights})
        if not places:
            return  # the part returns its input
        made = tuple(self.new(outputs[i]) for i in places)
        self.steps.append(
            Step(tuple(names), made, path, Part(what, kind, module, args, tuple(examples), places))
        )


def _noted(model: Model, inputs: Tensor, name: str, takes_mask: bool) -> list[Step]:
    given = {name: inputs}
    if takes_mask:
        given[VALID] = torch.ones(inputs.shape, dtype=torch.bool)
    notes = _Notes(model, given)
    with _hooks(model, notes), notes, torch.no_grad():
        logits = model(inputs, Tokens(valid=given.get(VALID)))[0]
    last = notes.names.get(id(logits))
    if last is None or last == name:
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
    """Yield (path, slot, operator, projection, module) of every operator of the network."""
    for name, slot, spec, context in parts(model.arch):
        part = model.part(name)
        if isinstance(spec, OpSpec):
            yield name, slot, spec, context.projection, part
            continue
        for inner, module in part.named_children():
            place = inner if inner in ("mixer", "ffn") else "norm"
            yield f"{name}.{inner}", place, getattr(spec, place), context.projection, module


# assembling graphs


def _placed(
    graph: Graph, names: Mapping[str, str], prefix: str, part: Part, entry: str, shared: dict[bytes, str]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Return (nodes, constants, value shapes) of a part with the names of the network, whose input is `entry`.

    Equal constants are merged into the one in `shared`, keyed by content, so that onnxruntime computes with it once.
    """
    inner = graph.model.graph
    shapes = {f"in{j}": shape for j, shape in enumerate(part.shapes)}

    def renamed(name: str) -> str:
        return names.get(name, f"{prefix}{name}") if name else ""

    def copy(node: Any) -> Any:
        changed = type(node)()
        changed.CopyFrom(node)
        changed.name = f"{prefix}{node.name}"
        for side in (changed.input, changed.output):
            side[:] = [renamed(name) for name in side]
        if node.op_type == "Shape" and node.input[0] in shapes:
            _read_at(changed, shapes[node.input[0]], entry)
        for attribute in changed.attribute:
            for j, below in enumerate(attribute.g.node):
                attribute.g.node[j].CopyFrom(copy(below))
            for value in (*attribute.g.input, *attribute.g.output, *attribute.g.initializer):
                value.name = renamed(value.name)
        return changed

    nodes, found = [], list(inner.initializer)
    for node in inner.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found.append(node.attribute[0].t)
            found[-1].name = node.output[0]
        else:
            nodes.append(node)
    names, constants = dict(names), []
    for tensor in found:
        kept = type(tensor)()
        kept.CopyFrom(tensor)
        kept.name = ""
        content = kept.SerializeToString()
        if content not in shared:
            shared[content] = kept.name = renamed(tensor.name)
            constants.append(kept)
        names[tensor.name] = shared[content]
    known = {BATCH: BATCH, LENGTH: LENGTH}
    values = [renamed_value(v, renamed(v.name), known) for v in (*inner.value_info, *inner.output)]
    return [copy(node) for node in nodes], constants, values


def _read_at(node: Any, shape: tuple[int | str, ...], entry: str) -> None:
    """Read a free size of a part's input from the network's input `entry` instead."""
    ends = {attribute.name: attribute for attribute in node.attribute}
    if set(ends) != {"start", "end"} or ends["end"].i - ends["start"].i != 1:
        return
    size = shape[ends["start"].i]
    if size in (BATCH, LENGTH):
        place = (BATCH, LENGTH).index(size)
        node.input[0], ends["start"].i, ends["end"].i = entry, place, place + 1


def _named(model: Model, name: str) -> Tensor:
    found: Tensor = model.get_parameter(name.removeprefix(WEIGHT))
    return found


def _tensor(name: str, value: Tensor) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name)
