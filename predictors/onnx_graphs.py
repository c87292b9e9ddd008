"""ONNX graphs of network parts, exported many at a time and cached under the key of their part.

Most of the cost of an export is the same for one graph and for a hundred, and networks of one space consist of few
different parts. Every part is therefore exported once, with its weights as inputs of the graph: parts that differ only
in the values of their weights share a graph. `predictors.onnx_network` assembles networks from these graphs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from predictors.onnx_forms import export, why_not_exported
from predictors.onnx_parts import BATCH, LENGTH, Part

ROWS = 2  # batch size of an export's examples: torch would treat a size of 1 as constant
AT_ONCE = 48  # parts per export: more are cheaper each, but one that cannot be exported fails all of them


class NoGraphError(ValueError):
    """ONNX cannot express a part; the message names the operation."""


@dataclass(frozen=True)
class Graph:
    """`model` computes outputs out0, out1, ... (`num_outputs`) from inputs in0, in1, ... and weights by name."""

    model: Any
    num_outputs: int

    @property
    def weights(self) -> list[str]:
        return [i.name for i in self.model.graph.input if not re.fullmatch(r"in\d+", i.name)]


class Graphs:
    """Cache of graphs by part key, in memory and optionally in a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, Graph | str] = {}
        self._refused: dict[tuple[str, bool], str] = {}  # by kind, and whether the length is free

    def of(self, part: Part) -> Graph:
        """Return the part's graph. Raises NoGraphError where ONNX cannot express it."""
        self.make([part])
        found = self._known[part.key]
        if isinstance(found, str):
            raise NoGraphError(found)
        return found

    def why_not(self, part: Part) -> str | None:
        """Return a sentence that says why ONNX cannot express the part; None where it can."""
        self.make([part])
        found = self._known[part.key]
        return found if isinstance(found, str) else None

    def best(self, parts: Sequence[Part]) -> list[Part]:
        """Return each part with a free length where it has such a graph, else with the length of its examples."""
        self.make(parts)
        found = [p.fixed if p.is_free and self.why_not(p) is not None else p for p in parts]
        self.make(found)
        return found

    def make(self, parts: Sequence[Part]) -> None:
        """Export the graphs of all parts that are not cached."""
        missing = list({p.key: p for p in parts if not self._is_known(p.key)}.values())
        for start in range(0, len(missing), AT_ONCE):
            here = missing[start : start + AT_ONCE]
            if not self._exported(here):
                self._one_by_kind(here)

    def _one_by_kind(self, parts: Sequence[Part]) -> None:
        """Try one part of each kind first; the rest of a kind that ONNX cannot express is not tried."""
        firsts: dict[str, Part] = {}
        for part in parts:
            if (part.kind, part.is_free) not in self._refused:
                firsts.setdefault(part.kind, part)
        self._halved(list(firsts.values()))
        for part in parts:
            if (part.kind, part.is_free) in self._refused:
                self._keep(part.key, self._refused[part.kind, part.is_free])
        self._halved([p for p in parts if p.key not in self._known])

    def _is_known(self, key: str) -> bool:
        if key in self._known:
            return True
        if self.folder is None:
            return False
        path, refused = self.folder / f"{key}.onnx", self.folder / f"{key}.txt"
        if path.is_file():
            import onnx

            model = onnx.load(path)
            self._known[key] = Graph(model, len(model.graph.output))
        elif refused.is_file():
            self._known[key] = refused.read_text(encoding="utf-8")
        return key in self._known

    def _keep(self, key: str, found: Graph | str) -> None:
        self._known[key] = found
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{key}.txt" if isinstance(found, str) else f"{key}.onnx"
        content = found.encode() if isinstance(found, str) else found.model.SerializeToString()
        partial_file = self.folder / f"{name}.partial"
        partial_file.write_bytes(content)
        partial_file.replace(self.folder / name)

    def _halved(self, parts: Sequence[Part]) -> None:
        """Export the parts, halving a group that fails until the failing parts are alone."""
        if parts and not self._exported(parts, alone=len(parts) == 1):
            middle = len(parts) // 2
            self._halved(parts[:middle])
            self._halved(parts[middle:])

    def _exported(self, parts: Sequence[Part], alone: bool = False) -> bool:
        """Return whether the parts' graphs are now known; the reason of a failed part that is `alone` is stored."""
        try:
            whole, counts = export_together(parts)
        except Exception as error:  # torch's exporters raise many types
            if alone:
                reason = f"onnxruntime can't run {parts[0].name}: {why_not_exported(error)}"
                self._refused[parts[0].kind, parts[0].is_free] = reason
                self._keep(parts[0].key, reason)
            return alone
        for part, graph in zip(parts, _cut(whole, parts, counts), strict=True):
            self._keep(part.key, graph)
        return True


def export_together(parts: Sequence[Part]) -> tuple[Any, list[int]]:
    """Return (one ONNX model of all parts side by side, number of outputs of each). Raises torch's exporter errors."""
    model = nn.ModuleList(_Call(part) for part in parts).eval()
    inputs, shapes = [_examples(part) for part in parts], _free_sizes(parts)
    counts = [len(part.outputs) for part in parts]
    with torch.no_grad():
        for call, given in zip(model, inputs, strict=True):
            call(given)  # fills caches of constants, which are exported as numbers instead of operations
        program = torch.export.export(
            _All(model),
            (inputs,),
            dynamic_shapes=(shapes,),
            prefer_deferred_runtime_asserts_over_guards=True,  # allow lengths for which torch cannot prove its guards
        )
        _check_lengths(program, parts, inputs)
        names = [f"p{i}.in{j}" for i, part in enumerate(parts) for j in range(len(part.inputs))]
        results = [f"p{i}.out{j}" for i, count in enumerate(counts) for j in range(count)]
        written = export(program, (inputs,), names, results, optimize=False, any_strides=True)
    return written.model_proto, counts


def _examples(part: Part) -> list[Tensor]:
    """Copies, since torch would treat an input that is also a weight, or an input of another part, as one tensor."""
    found = []
    for tensor, shape in zip(part.inputs, part.shapes, strict=True):
        given = tensor.detach().clone()
        for axis in (i for i, size in enumerate(shape) if size == BATCH):
            given = given.index_select(axis, torch.arange(ROWS) % given.shape[axis])
        found.append(given)
    return found


def _free_sizes(parts: Sequence[Part]) -> list[list[dict[int, Any]]]:
    """The free axes of each input of each part; different example lengths become different symbols."""
    batch = torch.export.Dim(BATCH)
    lengths: dict[int, Any] = {}

    def size(name: int | str, example: int) -> Any:
        if name == BATCH:
            return batch
        return lengths.setdefault(example, torch.export.Dim(f"{LENGTH}_{example}"))

    return [
        [
            {i: size(n, t.shape[i]) for i, n in enumerate(shape) if isinstance(n, str)}
            for t, shape in zip(part.inputs, part.shapes, strict=True)
        ]
        for part in parts
    ]


def _check_lengths(
    program: torch.export.ExportedProgram, parts: Sequence[Part], inputs: Sequence[Sequence[Tensor]]
) -> None:
    """Raises an error where the graph fails at other lengths: 3, and about half of the longest."""
    sizes = [
        t.shape[s.index(LENGTH)]
        for p in parts
        for t, s in zip(p.inputs, p.shapes, strict=True)
        if LENGTH in s
    ]
    if not sizes:
        return
    module, longest = program.module(), min(sizes)
    for length in {longest // 2 + 1, 3} & set(range(2, longest)):
        some = [
            [_cut_to(t, s, length) for t, s in zip(given, part.shapes, strict=True)]
            for given, part in zip(inputs, parts, strict=True)
        ]
        expected = [part.computed(given) for part, given in zip(parts, some, strict=True)]
        torch.testing.assert_close(module(some), expected, rtol=1e-4, atol=1e-4)


def _cut_to(tensor: Tensor, shape: tuple[int | str, ...], length: int) -> Tensor:
    return tensor.narrow(shape.index(LENGTH), 0, length).contiguous() if LENGTH in shape else tensor


class _Call(nn.Module):
    """A part as a function of its holes; returns its output tensors in order."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part, self.call = part.module, part.computed

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self.call(inputs)


class _All(nn.Module):
    def __init__(self, calls: nn.ModuleList) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, inputs: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        return [call(given) for call, given in zip(self.calls, inputs, strict=True)]


def _cut(whole: Any, parts: Sequence[Part], counts: Sequence[int]) -> Iterator[Graph]:
    """Yield each part's subgraph of the common graph, optimized, with the weights as inputs."""
    import onnx
    from onnxscript import optimizer

    every = list(whole.graph.node)
    constants = {tensor.name: tensor for tensor in whole.graph.initializer}
    kinds = {value.name: value for value in (*whole.graph.input, *whole.graph.output)}
    for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
        outputs = [f"p{i}.out{j}" for j in range(count)]
        nodes, used = needed(every, outputs)
        prefix = f"calls.{i}.part."
        weights = {f"{prefix}{name}": name for name in part.weights}
        places = {f"p{i}.in{j}": f"in{j}" for j in range(len(part.inputs))}
        renamed = {**weights, **places, **{f"p{i}.out{j}": f"out{j}" for j in range(count)}}
        sizes = {
            dim.dim_param: name
            for long, shape in zip(places, part.shapes, strict=True)
            for dim, name in zip(kinds[long].type.tensor_type.shape.dim, shape, strict=True)
            if isinstance(name, str)
        }
        inputs = [renamed_value(kinds[long], short, sizes) for long, short in places.items()]
        for long, name in weights.items():
            if long in used:
                tensor = constants[long]
                inputs.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        graph = onnx.helper.make_graph(
            [_renamed(_with_own_size(node, parts, i), renamed) for node in nodes],
            "part",
            inputs,
            [renamed_value(kinds[name], renamed[name], sizes) for name in outputs],
            [constants[name] for name in constants if name in used and name not in weights],
            value_info=[renamed_value(v, v.name, sizes) for v in whole.graph.value_info if v.name in used],
        )
        model = onnx.helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
        yield Graph(optimizer.optimize(model), count)


def _with_own_size(node: Any, parts: Sequence[Part], number: int) -> Any:
    """Redirect a size that the common export reads from another part's input to an input of this part."""
    found = re.fullmatch(r"p(\d+)\.in(\d+)", node.input[0]) if node.op_type == "Shape" else None
    if found is None or int(found[1]) == number:
        return node
    other, place = parts[int(found[1])], int(found[2])
    axis = {attribute.name: attribute.i for attribute in node.attribute}["start"]
    wanted = other.shapes[place][axis], _example_size(other, place, axis)
    own = parts[number]
    j, axis = next(
        (j, k)
        for j, shape in enumerate(own.shapes)
        for k, name in enumerate(shape)
        if (name, _example_size(own, j, k)) == wanted
    )
    changed = type(node)()
    changed.CopyFrom(node)
    changed.input[0] = f"p{number}.in{j}"
    for attribute in changed.attribute:
        attribute.i = axis + (attribute.name == "end")
    return changed


def _example_size(part: Part, place: int, axis: int) -> int:
    """Size of an axis of an exported input; all inputs have the same batch size."""
    return ROWS if part.shapes[place][axis] == BATCH else part.inputs[place].shape[axis]


def needed(nodes: Sequence[Any], outputs: Sequence[str]) -> tuple[list[Any], set[str]]:
    """Return (the nodes that the outputs depend on, in order; all names that they read)."""
    makers = {name: node for node in nodes for name in node.output}
    found, used, left = set(), set(), list(outputs)
    while left:
        name = left.pop()
        if name in used:
            continue
        used.add(name)
        node = makers.get(name)
        if node is not None and id(node) not in found:
            found.add(id(node))
            left += _reads(node)
    return [node for node in nodes if id(node) in found], used


def _reads(node: Any) -> list[str]:
    """Names that a node reads, including those read in its branches and loops."""
    found = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            found += _reads(inner)
    return found


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    changed = type(node)()
    changed.CopyFrom(node)
    for side in (changed.input, changed.output):
        side[:] = [names.get(name, name) for name in side]
    for attribute in changed.attribute:
        for j, inner in enumerate(attribute.g.node):
            attribute.g.node[j].CopyFrom(_renamed(inner, names))
    return changed


def renamed_value(value: Any, name: str, sizes: Mapping[str, str]) -> Any:
    """Copy a value with a new name and new names for its free sizes; sizes without one in `sizes` become unknown."""
    changed = type(value)()
    changed.CopyFrom(value)
    changed.name = name
    for dim in changed.type.tensor_type.shape.dim:
        if dim.dim_param in sizes:
            dim.dim_param = sizes[dim.dim_param]
        elif dim.dim_param:
            dim.Clear()
    return changed
