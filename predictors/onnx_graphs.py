"""Graphs of parts, exported many at a time and kept by their content.

Most of what an export costs is the same for one graph and for a hundred, and networks of one space are made of few
different parts. So every part is exported once, with its weights as inputs of the graph: two parts that differ in the
values of their weights alone have the same graph. `predictors.onnx_network` puts networks together from these.
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

ROWS = 2  # examples of an export: one alone would be taken for a law
AT_ONCE = 48  # parts of one export: each more costs less, all of them are lost where one can't be exported


class NoGraphError(ValueError):
    """ONNX has no form of a part; says of what."""


@dataclass(frozen=True)
class Graph:
    """`model` computes `num_outputs` outputs out0, out1, ... from inputs in0, in1, ... and the weights by name."""

    model: Any
    num_outputs: int

    @property
    def weights(self) -> list[str]:
        return [i.name for i in self.model.graph.input if not re.fullmatch(r"in\d+", i.name)]


class Graphs:
    """Graphs by the key of their part, in memory and, where there is one, in a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, Graph | str] = {}
        self._refused: dict[tuple[str, bool], str] = {}  # by kind, and whether the length is free

    def of(self, part: Part) -> Graph:
        """Raises NoGraphError where ONNX has none."""
        self.make([part])
        found = self._known[part.key]
        if isinstance(found, str):
            raise NoGraphError(found)
        return found

    def why_not(self, part: Part) -> str | None:
        """Why ONNX has no form of it, in a sentence; None where it has."""
        self.make([part])
        found = self._known[part.key]
        return found if isinstance(found, str) else None

    def best(self, parts: Sequence[Part]) -> list[Part]:
        """Each at a free length where it has such a graph, else at that of its examples."""
        self.make(parts)
        found = [p.fixed if p.is_free and self.why_not(p) is not None else p for p in parts]
        self.make(found)
        return found

    def make(self, parts: Sequence[Part]) -> None:
        """Have the graphs of all parts."""
        missing = list({p.key: p for p in parts if not self._is_known(p.key)}.values())
        for start in range(0, len(missing), AT_ONCE):
            here = missing[start : start + AT_ONCE]
            if not self._exported(here):
                self._one_by_kind(here)

    def _one_by_kind(self, parts: Sequence[Part]) -> None:
        """One of each kind first: those of a kind without a form are not tried again."""
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
        """Halves that fail are halved again, down to the parts that have no form."""
        if parts and not self._exported(parts, alone=len(parts) == 1):
            middle = len(parts) // 2
            self._halved(parts[:middle])
            self._halved(parts[middle:])

    def _exported(self, parts: Sequence[Part], alone: bool = False) -> bool:
        """Whether the parts' graphs are known now; of one `alone` it is kept why not."""
        try:
            whole, counts = export_together(parts)
        except Exception as error:  # torch's exporters fail in every way there is
            if alone:
                reason = f"onnxruntime can't run {parts[0].name}: {why_not_exported(error)}"
                self._refused[parts[0].kind, parts[0].is_free] = reason
                self._keep(parts[0].key, reason)
            return alone
        for part, graph in zip(parts, _cut(whole, parts, counts), strict=True):
            self._keep(part.key, graph)
        return True


def export_together(parts: Sequence[Part]) -> tuple[Any, list[int]]:
    """(one ONNX model of all parts side by side, how many outputs each has). Raises what torch's exporter raises."""
    model = nn.ModuleList(_Call(part) for part in parts).eval()
    inputs, shapes = [_examples(part) for part in parts], _free_sizes(parts)
    counts = [len(part.outputs) for part in parts]
    with torch.no_grad():
        for call, given in zip(model, inputs, strict=True):
            call(given)  # constants that are kept become numbers in the graph, not steps of it
        program = torch.export.export(
            _All(model),
            (inputs,),
            dynamic_shapes=(shapes,),
            prefer_deferred_runtime_asserts_over_guards=True,  # what can't be proven of every length is tried
        )
        _check_lengths(program, parts, inputs)
        names = [f"p{i}.in{j}" for i, part in enumerate(parts) for j in range(len(part.inputs))]
        results = [f"p{i}.out{j}" for i, count in enumerate(counts) for j in range(count)]
        written = export(program, (inputs,), names, results, optimize=False, any_strides=True)
    return written.model_proto, counts


def _examples(part: Part) -> list[Tensor]:
    """Copies: an input that is a weight of another part, or of two parts, would be taken for that one tensor."""
    found = []
    for tensor, shape in zip(part.inputs, part.shapes, strict=True):
        given = tensor.detach().clone()
        for axis in (i for i, size in enumerate(shape) if size == BATCH):
            given = given.index_select(axis, torch.arange(ROWS) % given.shape[axis])
        found.append(given)
    return found


def _free_sizes(parts: Sequence[Part]) -> list[list[dict[int, Any]]]:
    """The free axes of each input of each part; lengths that differ in the examples are different ones."""
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
    """Raises an error where the graph does not take other lengths, a short odd one and about half of the longest."""
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
    """A part as a function of its holes alone: gives the tensors that it returns, in order."""

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
    """Each part's own piece of the graph of all, optimized, with the weights as inputs."""
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
    """A size that an export of many parts reads from another part's input, read from this part's own."""
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
    """Of an input of an export; all have as many rows."""
    return ROWS if part.shapes[place][axis] == BATCH else part.inputs[place].shape[axis]


def needed(nodes: Sequence[Any], outputs: Sequence[str]) -> tuple[list[Any], set[str]]:
    """(the nodes that the outputs come from, in their order, every name that they read)."""
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
    """The names that a node reads, those within its branches and loops included."""
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
    """With these names for free sizes; one that has none here is unknown."""
    changed = type(value)()
    changed.CopyFrom(value)
    changed.name = name
    for dim in changed.type.tensor_type.shape.dim:
        if dim.dim_param in sizes:
            dim.dim_param = sizes[dim.dim_param]
        elif dim.dim_param:
            dim.Clear()
    return changed
