"""Network parts for export to ONNX: a module, one call of it, and the cache key of its graph.

The batch size of a graph is free, and the length too where the part can be traced that way; `Part.fixed` has a fixed
length. Some operations are exported differently for a free length (a recurrence in one piece instead of chunks), so
parts are timed in the form of the exported files.

The key of a graph is a hash of everything that determines it: the classes and settings of its modules, the shapes of
weights and inputs, the constants of the call, the exporter versions, and the source code of the operators.
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
BATCH, LENGTH = "batch", "length"  # names of free sizes
PACKAGES = ("torch", "onnx", "onnxscript")
_INTERNAL = {"declared", "training", *vars(nn.Module())}


@dataclass(frozen=True)
class Hole:
    """Placeholder for graph input number `index` in the arguments of a part; free sizes in `shape` are names."""

    index: int
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Part:
    """A module and one call of it: holes in `args` stand for computed tensors, of which `inputs` are examples.

    `outputs` are the indices in `outputs_of` that the module computes instead of passing an input through. `name` has
    the slot and operator, for messages. Whether ONNX can express a part depends only on its `kind` and free sizes.
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
        """The shapes of its holes, in order of index."""
        return [hole.shape for hole in sorted(tensors_in(self.args, Hole), key=lambda hole: hole.index)]

    @property
    def is_free(self) -> bool:
        return any(LENGTH in shape for shape in self.shapes)

    @property
    def fixed(self) -> Part:
        """The part with the length of its example inputs."""

        def sized(value: Any) -> Any:
            if not isinstance(value, Hole):
                return value
            sizes = zip(value.shape, self.inputs[value.index].shape, strict=True)
            return replace(value, shape=tuple(size if name == LENGTH else name for name, size in sizes))

        return replace(self, args=mapped(self.args, sized)) if self.is_free else self

    def computed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the part's outputs, each [B, ...], for `inputs` [B, ...] in order of holes."""
        found = outputs_of(self.module(*filled(self.args, inputs)))
        return [found[i] for i in self.outputs]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers [...] by name, which are inputs of the graph along with those of the call."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}


def kind_of(slot: str, spec: OpSpec, projection: OpSpec) -> str:
    """Return the operator with its nested operators and word settings: sizes do not affect whether ONNX has a form."""
    words = (f"{name}={_words(value)}" for name, value in spec.items if isinstance(value, str | OpSpec))
    return f"{slot} {spec.op} {' '.join(words)} {_words(projection)}"


def _words(value: str | OpSpec) -> str:
    if isinstance(value, str):
        return value
    return f"{value.op}({','.join(_words(v) for _, v in value.items if isinstance(v, str | OpSpec))})"


def outputs_of(returned: Any) -> list[Tensor]:
    """Return the tensors [B, ...] that a network uses of a module's result: the first, token facts, and saved tensors.

    States are left out.
    """
    if isinstance(returned, Tensor):
        return [returned]
    first, *rest = returned
    facts = [value for value in rest if isinstance(value, Tokens)]
    saved = rest[-1] if len(rest) == 2 else None
    return [first, *tensors_in(facts), *tensors_in(saved)]


def facts_read(tokens: Tokens, name: str) -> Tokens:
    """Return the facts that an operator may read in a network; `name` is the slot and operator of its part.

    Positions on a grid are omitted, because an operator derives them from its input.
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
    """Return every tensor (or instance of `kind`) in a nested value, in a fixed order."""
    found: list[Any] = []

    def seen(inner: Any) -> Any:
        if isinstance(inner, kind):
            found.append(inner)
        return inner

    mapped(value, seen)
    return found


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the value with `change` applied to every tensor and hole in sequences, mappings and dataclasses."""
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
    """Return a part's arguments with each hole replaced by its tensor of `inputs` [B, ...]."""
    return mapped(args, lambda t: inputs[t.index] if isinstance(t, Hole) else t)


# the cache key


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
    """Hash of the source code that the graphs are traced from."""
    root, found = Path(str(searchspace.__path__[0])), hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def fingerprint(module: nn.Module) -> list[Any]:
    """Return everything that determines a module's graph except the values of its weights, as JSON."""
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
    """Return a value as JSON that identifies it; the repr for unknown types."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        digest = hashlib.sha256(data.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        return ["tensor", list(value.shape), str(value.dtype), digest]
    if isinstance(value, nn.Module):
        return ["module"]  # fingerprinted under its own name
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
