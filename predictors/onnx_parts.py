"""Parts of networks as they are exported to ONNX: a module, one call of it, and the key of its graph.

The batch of a graph is free, and its length is where the part can be traced so; `Part.fixed` is the part at one length.
A length that is free has other forms of some operations (a recurrence in one piece, not in chunks), so a part is timed
in the form that files have which are handed out.

A graph is kept under the hash of all that decides it: the classes and settings of its modules, the shapes of weights
and inputs, the constants that it is called with, the exporter, and the source of the operators.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

import searchspace
from searchspace import registry
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec

FORMAT = 3
BATCH, LENGTH = "batch", "length"  # sizes that are free
PACKAGES = ("torch", "onnx", "onnxscript")
_INTERNAL = {"declared", "training", *vars(nn.Module())}


@dataclass(frozen=True)
class Hole:
    """Stands for input number `index` of a graph among the arguments of a part; sizes that are free have a name."""

    index: int
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Part:
    """A module and one call of it: tensors of `args` that a network computes are holes, `inputs` are examples of them.

    `outputs` are the places among `outputs_of` that are computed here, not handed through. `name` is what a person
    knows it by: slot and operator. Whether ONNX has a form of it depends on its `kind` alone, and on what is free.
    """

    name: str
    kind: str
    module: nn.Module
    args: tuple[Any, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[int, ...] = (0,)

    @cached_property
    def key(self) -> str:
        call = described([self.args, self.outputs])
        text = json.dumps([FORMAT, _versions(), fingerprint(self.module), call])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @cached_property
    def shapes(self) -> list[tuple[int | str, ...]]:
        """Of its holes, in order."""
        return [hole.shape for hole in sorted(tensors_in(self.args, Hole), key=lambda hole: hole.index)]

    @property
    def is_free(self) -> bool:
        return any(LENGTH in shape for shape in self.shapes)

    @property
    def fixed(self) -> Part:
        """The same at the length of its examples."""

        def sized(value: Any) -> Any:
            if not isinstance(value, Hole):
                return value
            sizes = zip(value.shape, self.inputs[value.index].shape, strict=True)
            return replace(value, shape=tuple(size if name == LENGTH else name for name, size in sizes))

        return replace(self, args=mapped(self.args, sized)) if self.is_free else self

    def computed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What it gives for these inputs."""
        found = outputs_of(self.module(*filled(self.args, inputs)))
        return [found[i] for i in self.outputs]

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


def outputs_of(returned: Any) -> list[Tensor]:
    """What a network goes on with: the first tensor, facts of tokens, and what a transition saves, without states."""
    if isinstance(returned, Tensor):
        return [returned]
    first, *rest = returned
    facts = [value for value in rest if isinstance(value, Tokens)]
    saved = rest[-1] if len(rest) == 2 else None
    return [first, *tensors_in(facts), *tensors_in(saved)]


def facts_read(tokens: Tokens, name: str) -> Tokens:
    """The facts that the operator of a part called `name`, its slot and its own name, may read in a network.

    Positions on a grid are the places in it, which an operator knows from its input.
    """
    slot, op = name.split()
    if slot not in ("mixer", "ffn", "norm", "head"):
        return tokens.replace(embedding=None)
    return tokens.replace(
        embedding=tokens.embedding if slot == "head" else None,
        rotary=tokens.rotary if registry.operator(slot, op).rope else None,
        positions=tokens.positions if slot == "mixer" and tokens.grid is None else None,
    )


def tensors_in(value: Any, kind: type = Tensor) -> list[Any]:
    """Every tensor, or hole, in a value, in a fixed order."""
    found: list[Any] = []

    def seen(inner: Any) -> Any:
        if isinstance(inner, kind):
            found.append(inner)
        return inner

    mapped(value, seen)
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
