"""Parts of networks as ONNX graphs at one batch and length, exported many at a time and kept by their content.

Most of what an export costs is the same for one graph and for a hundred, and networks of one space are made of few
different parts. So every part is exported once, with its weights as inputs of the graph: two parts that differ in the
values of their weights alone have the same graph. `predictors.onnx_network` puts networks together from these.

A graph is kept under the hash of all that decides it: the classes and settings of its modules, the shapes of weights
and inputs, the constants that it is called with, the exporter, and the source of the operators.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

import searchspace
from predictors.onnx_forms import export, why_not_exported
from searchspace.spec.arch import OpSpec

FORMAT = 2
PACKAGES = ("torch", "onnx", "onnxscript")
BATCH = 48  # parts of one export: each more costs less, all of them are lost where one can't be exported
_INTERNAL = {"declared", "training", *vars(nn.Module())}


class NoGraphError(ValueError):
    """ONNX has no form of a part; says of what."""


@dataclass(frozen=True)
class Hole:
    """Stands for input number `index` of a graph among the arguments of a part."""

    index: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Part:
    """A module and one call of it: tensors of `args` that a network computes are holes, `inputs` are examples of them.

    `name` is what a person knows it by: slot and operator. Whether ONNX has a form of it depends on its `kind` alone.
    """

    name: str
    kind: str
    module: nn.Module
    args: tuple[Any, ...]
    inputs: tuple[Tensor, ...]

    @cached_property
    def key(self) -> str:
        text = json.dumps([FORMAT, _versions(), fingerprint(self.module), described(self.args)])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers by their name in the module: the graph's inputs beside those of the call."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}


def kind_of(slot: str, spec: OpSpec, projection: OpSpec) -> str:
    """The operator with the operators and words among its settings: sizes do not decide whether it has a form."""
    words = (f"{name}={_words(value)}" for name, value in spec.items if isinstance(value, str | OpSpec))
    return f"{slot} {spec.op} {' '.join(words)} {_words(projection)}"


def _words(value: str | OpSpec) -> str:
    if isinstance(value, str):
        return value
    return f"{value.op}({','.join(_words(v) for _, v in value.items if isinstance(v, str | OpSpec))})"


class _Call(nn.Module):
    """A part as a function of its holes alone: gives the tensors that it returns, in order."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part, self.args = part.module, part.args

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return outputs_of(self.part(*filled(self.args, inputs)))


def outputs_of(returned: Any) -> list[Tensor]:
    """What a network goes on with: the first tensor, and what a transition saves; states and facts are left out."""
    if isinstance(returned, Tensor):
        return [returned]
    first, *rest = returned
    saved = rest[-1] if len(rest) == 2 else None
    return [first, *tensors_in(saved)]


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in a value, in a fixed order."""
    found: list[Tensor] = []
    mapped(value, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with every tensor and hole changed; sequences, mappings and dataclasses are looked into."""
    if isinstance(value, Tensor | Hole):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(mapped(v, change) for v in value)
    if isinstance(value, dict):
        return {name: mapped(v, change) for name, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: mapped(getattr(value, f.name), change) for f in fields(value) if f.init}
        same = all(changed[n] is getattr(value, n) for n in changed)
        return value if same else replace(value, **changed)
    return value


def filled(args: Any, inputs: Sequence[Tensor]) -> Any:
    """The arguments of a part with inputs for its holes."""
    return mapped(args, lambda t: inputs[t.index] if isinstance(t, Hole) else t)


# the key


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found | {"source": _source()}


@cache
def _source() -> str:
    """A hash of the code that the graphs are traced from."""
    root, found = Path(str(searchspace.__path__[0])), hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def fingerprint(module: nn.Module) -> list[Any]:
    """All that decides a module's graph but the values of its weights, as JSON."""
    found = []
    for name, part in module.named_modules():
        attributes = {n: described(v) for n, v in sorted(vars(part).items()) if n not in _INTERNAL}
        tensors = {
            n: [list(t.shape), str(t.dtype)]
            for n, t in sorted({**part._parameters, **part._buffers}.items())
            if t is not None
        }
        found.append([name, f"{type(part).__module__}.{type(part).__qualname__}", attributes, tensors])
    return found


def described(value: Any) -> Any:
    """A value as JSON that says all of it; of what is unknown here its repr."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        digest = hashlib.sha256(data.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        return ["tensor", list(value.shape), str(value.dtype), digest]
    if isinstance(value, nn.Module):
        return ["module"]  # is looked into by its own name
    if isinstance(value, tuple | list):
        return [described(v) for v in value]
    if isinstance(value, dict):
        return [[described(k), described(v)] for k, v in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        known = {f.name: described(getattr(value, f.name)) for f in fields(value)}
        return [type(value).__qualname__, known]
    if isinstance(value, partial):
        return ["partial", described(value.func), described(value.args), described(value.keywords)]
    if isinstance(value, FunctionType):
        held = [described(cell.cell_contents) for cell in value.__closure__ or ()]
        return [value.__module__, value.__qualname__, value.__code__.co_firstlineno, held]
    return repr(value)


# graphs


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
        self._refused: dict[str, str] = {}  # by kind

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

    def make(self, parts: Sequence[Part], on_progress: Callable[[int, int], None] | None = None) -> None:
        """Have the graphs of all parts; `on_progress` hears (exported, to be exported)."""
        missing = list({p.key: p for p in parts if not self._is_known(p.key)}.values())
        for start in range(0, len(missing), BATCH):
            if on_progress is not None:
                on_progress(start, len(missing))
            here = missing[start : start + BATCH]
            if not self._exported(here):
                self._one_by_kind(here)

    def _one_by_kind(self, parts: Sequence[Part]) -> None:
        """One of each kind first: those of a kind without a form are not tried again."""
        firsts: dict[str, Part] = {}
        for part in parts:
            if part.kind not in self._refused:
                firsts.setdefault(part.kind, part)
        self._halved(list(firsts.values()))
        for part in parts:
            if part.kind in self._refused:
                self._keep(part.key, self._refused[part.kind])
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
                self._refused[parts[0].kind] = reason
                self._keep(parts[0].key, reason)
            return alone
        for part, graph in zip(parts, _cut(whole, parts, counts), strict=True):
            self._keep(part.key, graph)
        return True


def export_together(parts: Sequence[Part]) -> tuple[Any, list[int]]:
    """(one ONNX model of all parts side by side, how many outputs each has). Raises what torch's exporter raises."""
    model = nn.ModuleList(_Call(part) for part in parts).eval()
    # Copies: an input that is a weight of another part, or of two parts, would be taken for that one tensor.
    inputs = [[t.detach().clone() for t in part.inputs] for part in parts]
    with torch.no_grad():
        counts = [len(call(given)) for call, given in zip(model, inputs, strict=True)]
        program = torch.export.export(_All(model), (inputs,))
        names = [f"p{i}.in{j}" for i, part in enumerate(parts) for j in range(len(part.inputs))]
        results = [f"p{i}.out{j}" for i, count in enumerate(counts) for j in range(count)]
        written = export(program, (inputs,), names, results, optimize=False, any_strides=True)
    return written.model_proto, counts


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

    makers = {name: node for node in whole.graph.node for name in node.output}
    order = {id(node): i for i, node in enumerate(whole.graph.node)}
    constants = {tensor.name: tensor for tensor in whole.graph.initializer}
    kinds = {value.name: value for value in (*whole.graph.input, *whole.graph.output)}
    for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
        outputs = [f"p{i}.out{j}" for j in range(count)]
        nodes, used = _needed(makers, outputs)
        nodes.sort(key=lambda node: order[id(node)])
        prefix = f"calls.{i}.part."
        weights = {f"{prefix}{name}": name for name in part.weights}
        places = {f"p{i}.in{j}": f"in{j}" for j in range(len(part.inputs))}
        renamed = {**weights, **places, **{f"p{i}.out{j}": f"out{j}" for j in range(count)}}
        inputs = [_renamed_value(kinds[long], short) for long, short in places.items()]
        for long, name in weights.items():
            if long in used:
                tensor = constants[long]
                inputs.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        graph = onnx.helper.make_graph(
            [_renamed(node, renamed) for node in nodes],
            "part",
            inputs,
            [_renamed_value(kinds[name], renamed[name]) for name in outputs],
            [constants[name] for name in constants if name in used and name not in weights],
        )
        model = onnx.helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
        yield Graph(optimizer.optimize(model), count)


def _needed(makers: Mapping[str, Any], outputs: Sequence[str]) -> tuple[list[Any], set[str]]:
    """(the nodes that the outputs come from, every name that they read)."""
    nodes, used, left = {}, set(), list(outputs)
    while left:
        name = left.pop()
        if name in used:
            continue
        used.add(name)
        node = makers.get(name)
        if node is not None and id(node) not in nodes:
            nodes[id(node)] = node
            left += _reads(node)
    return list(nodes.values()), used


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


def _renamed_value(value: Any, name: str) -> Any:
    changed = type(value)()
    changed.CopyFrom(value)
    changed.name = name
    return changed
