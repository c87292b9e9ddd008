"""The interface of an operator to the rest of the system, and the registry of operators.

An operator is one file under `searchspace/ops/<family>/`; its module holds one frozen `Operator` entry. Families are
the folders named in FAMILIES; a file that fails to import raises, as does a name used twice in one slot. Installed
packages add operators by an entry point of the group `nas.operators` that names a module with entries.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

from searchspace.spec.arch import OpSpec, Scalar
from searchspace.spec.reading import unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from searchspace.primitives.context import BuildContext, Layout, Tokens

ROOT = __name__.rpartition(".")[0]
ENTRY_POINTS = "nas.operators"
FAMILIES = (
    "attention",
    "linear_attention",
    "recurrence",
    "convolution",
    "selection",
    "latent",
    "hybrid",
    "pooling",
    "normalizer",
    "qk_norm",
    "score_bias",
    "feature_map",
    "norm",
    "ffn",
    "activation",
    "projection",
    "position",
    "transition",
    "stem",
    "head",
    "nothing",
)
SLOTS = (
    "mixer",
    "ffn",
    "norm",
    "normalizer",
    "qk_norm",
    "score_bias",
    "feature_map",
    "activation",
    "projection",
    "position",
    "transition",
    "way_back",
    "stem",
    "head",
)


@dataclass(frozen=True)
class Nested:
    """A hyperparameter whose value is an operator: its slot and the default candidates."""

    slot: str
    candidates: tuple[str, ...]


Domain = tuple[Scalar, ...] | Nested


@dataclass(frozen=True)
class Range:
    """The numbers allowed for a hyperparameter, not only those offered.

    They range from `low` to `high`, in steps of `step` from `low` where the choices are integers and `fractions` are
    not allowed; `above` excludes `low`. `why` completes the sentence "..., since ...".
    """

    low: float
    high: float = math.inf
    why: str = ""
    step: int = 1
    above: bool = False
    fractions: bool = False

    def holds(self, value: float) -> bool:
        if isinstance(value, bool):
            return False
        beyond = value <= self.low if self.above else value < self.low
        if not math.isfinite(value) or beyond or value > self.high:
            return False
        return self.step == 1 or (value - self.low) % self.step == 0

    def sentence(self, whole: bool) -> str:
        """Return what a value outside the range must be instead."""
        words = (
            f"a {'whole ' if whole else ''}number {'above' if self.above else 'of at least'} {self.low:.10g}"
        )
        if self.step > 1:
            words = f"one of {', '.join(f'{self.low + i * self.step:.10g}' for i in range(3))}, ..."
        words += f" and at most {self.high:.10g}" if self.high < math.inf else ""
        return words + (f", since {self.why}" if self.why else "")


SIZE = Range(1, 2**20)
COUNT = Range(0, 2**20)
ODD = Range(1, 2**20, "it has a middle", step=2)
SHARE = Range(0, 1, "it is a share", above=True)
SOFTCAP = Range(0, 2**20, fractions=True)
EPSILON = Range(0, 0.1, "it only keeps a division from 0", above=True)


def _no_flops(module: nn.Module, T: int, S: int) -> int:
    return 0


def _no_state(module: nn.Module, context_len: int, bytes_per_value: int) -> int:
    return 0


def _none_idle(module: nn.Module) -> Sequence[nn.Module]:
    return ()


def _nothing(spec: OpSpec) -> None:
    return None


def _never(spec: OpSpec) -> bool:
    return False


def _always_valid(spec: OpSpec, context: BuildContext) -> str | None:
    return None


def _same_layout(spec: OpSpec, layout: Layout) -> Layout:
    return layout


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One entry of the catalogue. It holds all that tests, costs and searches need to know about an operator.

    build         (spec, context, ...) -> module; a module maps (x, tokens, state) to (y, state)
    slot          where it can be used; a way_back has the name and items of the transition whose stage it leaves
    reference     (module, x, tokens) -> y from the module's own weights in the slowest, plainest form, in x's dtype
    choices       the searchable hyperparameters: ordered values, or a nested operator
    options       hyperparameters that are searched only in spaces that name them: ordered values; a spec without one
    has
                  the first value
    fixed         hyperparameters that pretrained networks set and no space varies by itself, with their defaults
    ranges        what a space may set beyond the choices: numbers (SIZE by default for integers) or words (by default
                  those of the choices); in `lists`, words are separated by commas
    flops         (module, T, S) of one sequence with T queries and S keys; a multiply-add counts 2, masked positions
                  count in full. The maps of `context.linear` are added for T tokens, unless `counts_projections`
    state_bytes   (module, context_len, bytes_per_value) of one sequence after context_len tokens; one made by
                  `primitives.state_size` also takes the format of its rows, any other keeps them native
    idle          (module) -> the parts whose weights one token does not use, such as experts that it did not choose
    layout        how a stem or transition changes the token grid
    calibrate     (module, [(x, tokens), ...]) sets the tensors declared as calibrated
    rope          whether a mixer rotates its queries and keys by position; `rotary_width` is the item with the number
    of
                  channels of a head that it may rotate
    lends         spec -> what a mixer leaves for later blocks of its stage (Tokens.lend); None for nothing
    borrows       spec -> whether a mixer uses what earlier blocks left
    lender        spec -> a mixer that leaves what this one needs; None where it needs nothing
    catalogue     rows of the catalogue of published designs that this entry implements
    needs_2d      whether a bidirectional network needs a 2-D grid of tokens for it
    fixed_length  whether its formula or weights are limited to the maximum length: the model refuses longer sequences
    packed        whether a mixer takes packed sequences (Tokens.offsets) itself; others get padded rows
    quantizable   roles whose weights may have a format; by default those named by the class to build
    fold          (module, progress) -> the simpler operator that it equals in evaluation mode, and that operator's
                  tensors; None where there is none at this share of the training

    Raises ValueError for an unknown slot.
    """

    name: str
    slot: str
    paper: str
    build: Callable[..., nn.Module]
    reference: Callable[..., Tensor] | None = None
    choices: Mapping[str, Domain] = field(default_factory=dict)
    options: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    fixed: Mapping[str, Scalar] = field(default_factory=dict)
    ranges: Mapping[str, Range | tuple[str, ...]] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    flops: Callable[[Any, int, int], int] = _no_flops
    state_bytes: Callable[..., int] = _no_state
    idle: Callable[[Any], Sequence[nn.Module]] = _none_idle
    why_invalid: Callable[[OpSpec, BuildContext], str | None] = _always_valid
    layout: Callable[[OpSpec, Layout], Layout] = _same_layout
    calibrate: Callable[[Any, list[tuple[Tensor, Tokens]]], None] | None = None
    fold: Callable[[Any, float], tuple[OpSpec, dict[str, Tensor]] | None] | None = None
    causal: bool = True
    bidirectional: bool = True
    needs_2d: bool = False
    packed: bool = False
    fixed_length: bool = False
    rope: bool = False
    rotary_width: str = "head_dim"
    lends: Callable[[OpSpec], Hashable] = _nothing
    borrows: Callable[[OpSpec], bool] = _never
    lender: Callable[[OpSpec], OpSpec | None] = _nothing
    counts_projections: bool = False
    quantizable: tuple[str, ...] = ()
    catalogue: tuple[int, ...] = ()
    complexity: str = ""
    state: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantizable", self.quantizable or getattr(self.build, "quantizable", ()))
        if self.slot not in SLOTS:
            raise ValueError(f"operator {self.name}: unknown slot {self.slot!r}; known: {', '.join(SLOTS)}")

    def why_not(self, name: str, value: object) -> str | None:
        """Return a sentence on why a hyperparameter can't have this value and what is allowed; None where it can."""
        domain = self.searched[name] if name in self.searched else (self.fixed[name],)
        allowed = self.ranges.get(name)
        if isinstance(domain, Nested):
            wanted = "" if isinstance(value, OpSpec) else f"an operator of the slot {domain.slot}"
        else:
            words = allowed if isinstance(allowed, tuple) else tuple(v for v in domain if isinstance(v, str))
            if name in self.lists and isinstance(value, str) and set(value.split(",")) <= set(words):
                return None
            numbers = [v for v in domain if not isinstance(v, str)]
            wanted = _wanted(value, words, numbers, allowed if isinstance(allowed, Range) else SIZE)
        return f"{self.name}: {name} = {value!r} must be {wanted}" if wanted else None

    @property
    def searched(self) -> Mapping[str, Domain]:
        """Every hyperparameter that a space may search: the choices, then the options."""
        return {**self.choices, **self.options}

    def turns(self, spec: OpSpec) -> bool:
        """Return whether a mixer of this spec rotates anything by position."""
        return self.rope and spec.get("rotary", self.options.get("rotary", ("global",))[0]) != "none"

    @property
    def items(self) -> frozenset[str]:
        """The names of everything that a spec of this operator may contain."""
        return frozenset((*self.choices, *self.options, *self.fixed))

    @property
    def position_wise(self) -> bool:
        """Whether a token's result depends only on that token: causal, and without a decoding state."""
        return self.causal and self.state_bytes is _no_state

    def to_json(self) -> dict[str, Any]:
        """Return what a listing shows, without anything that needs torch."""
        choices = {
            n: {"slot": d.slot, "candidates": list(d.candidates)} if isinstance(d, Nested) else list(d)
            for n, d in self.choices.items()
        }
        kinds = [k for k in ("causal", "bidirectional", "needs_2d", "fixed_length") if getattr(self, k)]
        return {
            "name": self.name,
            "slot": self.slot,
            "paper": self.paper,
            "kinds": kinds,
            "complexity": self.complexity,
            "state": self.state,
            "choices": choices,
            **({"options": {n: list(values) for n, values in self.options.items()}} if self.options else {}),
            "fixed": dict(self.fixed),
            "catalogue": list(self.catalogue),
        }


def _wanted(value: object, words: tuple[str, ...], numbers: Sequence[Scalar], allowed: Range) -> str:
    """What the value must be; "" where it is right. `numbers` are examples that determine the type."""
    is_switch = bool(numbers) and isinstance(numbers[0], bool)
    if value in words or (is_switch and isinstance(value, bool)):
        return ""
    wanted = [repr(word) for word in words]
    if is_switch:
        wanted.append("true or false")
    elif numbers:
        whole = not allowed.fractions and all(isinstance(v, int) for v in numbers)
        if isinstance(value, int if whole else int | float) and allowed.holds(value):
            return ""
        wanted.append(allowed.sentence(whole))
    return " or ".join(wanted)


def operators() -> Mapping[tuple[str, str], Operator]:
    """Return every operator by (slot, name)."""
    return _scan()[0]


def module_of(slot: str, name: str) -> str:
    """Return the module that holds an operator's entry."""
    operator(slot, name)
    return _scan()[1][slot, name]


@cache
def _scan() -> tuple[dict[tuple[str, str], Operator], dict[tuple[str, str], str]]:
    """All entries, and the module of each."""
    found: dict[tuple[str, str], Operator] = {}
    modules: dict[tuple[str, str], str] = {}
    for source in _sources():
        for entry in vars(source).values():
            if isinstance(entry, Operator):
                _add(found, entry)
                modules[entry.slot, entry.name] = source.__name__
    return found, modules


def _sources() -> Iterator[ModuleType]:
    """The modules of the families, then those that installed packages name in the entry-point group nas.operators."""
    for family in FAMILIES:
        try:
            package = importlib.import_module(f"{ROOT}.ops.{family}")
        except ModuleNotFoundError as error:
            if error.name != f"{ROOT}.ops.{family}":
                raise
            continue  # an extracted folder only has the families that its network uses
        for module in pkgutil.iter_modules(package.__path__):
            yield importlib.import_module(f"{package.__name__}.{module.name}")
    if ROOT != "searchspace":
        return  # an extracted folder only uses the modules that it contains
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: p.name):
        source = point.load()
        if not isinstance(source, ModuleType):
            raise ValueError(
                f"entry point {point.name!r} of {ENTRY_POINTS} must name a module, got {point.value!r}"
            )
        yield source


def _add(found: dict[tuple[str, str], Operator], entry: Operator) -> None:
    key = (entry.slot, entry.name)
    if key in found:
        raise ValueError(f"two operators of slot {entry.slot!r} are named {entry.name!r}")
    found[key] = entry


def operator(slot: str, name: str) -> Operator:
    """Return the entry of an operator. Raises ValueError listing the known ones."""
    try:
        return operators()[slot, name]
    except KeyError:
        known = sorted(n for s, n in operators() if s == slot)
        raise ValueError(unknown(name, known, slot)) from None


def entries(slot: str, spec: OpSpec) -> Iterator[Operator]:
    """Yield the entries of an operator and of those nested in it."""
    entry = operator(slot, spec.op)
    yield entry
    for name, domain in entry.choices.items():
        if isinstance(domain, Nested):
            yield from entries(domain.slot, spec[name])


def build(slot: str, spec: OpSpec, context: BuildContext, *args: Any) -> nn.Module:
    """Return the module of an operator."""
    return operator(slot, spec.op).build(spec, context, *args)
