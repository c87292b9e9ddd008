"""Architectures as pure data: equal when they compute the same thing, identified by a hash of canonical JSON.

    ArchSpec  one network: stem, position, a flat tuple of blocks grouped into stages, final norm, head
    StageSpec a run of consecutive blocks of one width, entered and left through a transition
    BlockSpec one mixer and one ffn, with their norm, placement, projection kind and precision
    OpSpec    one operator by its registered name, with its hyperparameters

A block that a sub-network does not use stays in place as `none`/`none`, so block i of every sub-network uses the
weights of block i of the supernet.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Union

SCHEMA = 1
PLACEMENTS = ("pre", "post", "peri", "parallel", "output")
TASKS = ("causal_lm", "masked_lm", "classification", "embedding")
NUMBERS = (
    "native",
    "bf16",
    "fp16",
    "int8",
    "int8_static",
    "int7",
    "uint8",
    "int4",
    "fp8",
    "bct",
    "zip8_4",
    "zip4_2",
    "stairs16_8_4",
)

Scalar = bool | int | float | str
Value = Union[Scalar, "OpSpec"]


@dataclass(frozen=True)
class OpSpec:
    """An operator's name and its hyperparameters, sorted by name; a value may be another operator (a normalizer)."""

    op: str
    items: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, op: str, **items: Value) -> OpSpec:
        return cls(op, tuple(sorted(items.items())))

    @cached_property
    def _hash(self) -> int:
        return hash((self.op, self.items))

    def __hash__(self) -> int:  # cached, since a search looks up operators all the time
        return self._hash

    @cached_property
    def _by_name(self) -> dict[str, Value]:
        return dict(self.items)

    def __getitem__(self, name: str) -> Any:
        """Return a hyperparameter. Raises KeyError naming the existing ones."""
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(
                f"{self.op} has no item {name!r}; it has: {', '.join(self._by_name) or 'none'}"
            ) from None

    def get(self, name: str, default: Any = None) -> Any:
        return self._by_name.get(name, default)

    def to_json(self) -> dict[str, Any]:
        return {"op": self.op} | {n: v.to_json() if isinstance(v, OpSpec) else v for n, v in self.items}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> OpSpec:
        """Read `{"op": name, item: value, ...}`; a plain string is an operator without items."""
        if isinstance(data, str):
            return cls(data)
        items = {n: cls.from_json(v) if isinstance(v, Mapping) else v for n, v in data.items() if n != "op"}
        return cls.of(data["op"], **items)

    def __str__(self) -> str:
        return self.op + (f"({', '.join(f'{n}={v}' for n, v in self.items)})" if self.items else "")


NONE = OpSpec("none")
DENSE = OpSpec.of("dense", bias=False)


@dataclass(frozen=True)
class Format:
    """How the numbers of one role are stored and multiplied: `native` is the dtype of the workload.

    int8 activations are quantized per token at run time, int8_static ones with a calibrated scale and zero point.
    int8_onnx is onnxruntime's dynamic quantization: 7-bit weights with a scale per output, 8-bit activations with one
    scale and zero point per call. int4 weights have a scale and an offset, bct numbers (weights and activations) a
    power of two, for each `group_size` neighbours of a row. stairs and zip are for states: bits by age, and by
    attention received.

    Raises ValueError for an unknown number format.
    """

    weights: str = "native"
    activations: str = "native"
    group_size: int = 0
    algorithm: str = "rtn"

    def __post_init__(self) -> None:
        for kind in (self.weights, self.activations):
            if kind not in NUMBERS:
                raise ValueError(f"unknown number format {kind!r}; known: {', '.join(NUMBERS)}")

    @classmethod
    def of(cls, name: str) -> Format:
        """Return a format by name: bf16, int8_dynamic, int4_g64_gptq, ... Raises ValueError listing the known ones."""
        found = _FORMAT_NAME.fullmatch(name)
        kind, group, algorithm = found.groups() if found else ("", None, None)
        if (
            kind not in NAMED_FORMATS
            or (group and kind not in GROUPED)
            or algorithm not in ALGORITHMS.get(kind, (None,))
        ):
            known = ", ".join([*NAMED_FORMATS, *(f"{k}_g32" for k in GROUPED)])
            more = ", ".join(f"{k}_{a}" for k, names in ALGORITHMS.items() for a in names if a)
            raise ValueError(f"unknown format {name!r}; known: {known}, {more}")
        group_size = int(group) if group else GROUPED.get(kind, 0)
        if kind in GROUPED and (group_size < 2 or group_size % 2):
            raise ValueError(f"format {name!r}: a group has an even number of members")
        return cls(*NAMED_FORMATS[kind], group_size, algorithm or "rtn")

    @property
    def name(self) -> str:
        kind = next((k for k, v in NAMED_FORMATS.items() if v == (self.weights, self.activations)), "")
        if not kind:
            return f"{self.weights}/{self.activations}"
        group = f"_g{self.group_size}" if self.group_size != GROUPED.get(kind, 0) else ""
        return kind + group + ("" if self.algorithm == "rtn" else f"_{self.algorithm}")


NAMED_FORMATS = {
    "native": ("native", "native"),
    "bf16": ("bf16", "bf16"),
    "fp16": ("fp16", "fp16"),
    "int8": ("int8", "native"),
    "int8_dynamic": ("int8", "int8"),
    "int8_static": ("int8", "int8_static"),
    "int8_onnx": ("int7", "uint8"),
    "int4": ("int4", "native"),
    "fp8": ("fp8", "fp8"),
    "bct": ("bct", "bct"),
    "zip8_4": ("zip8_4", "native"),
    "zip4_2": ("zip4_2", "native"),
    "stairs16_8_4": ("stairs16_8_4", "native"),
}
ONNX_INT8 = "int8_onnx"
GROUPED = {"int4": 64, "bct": 32}
ALGORITHMS = {"int4": (None, "gptq"), "int8_static": (None, "smooth"), "int8_dynamic": (None, "smooth")}
_FORMAT_NAME = re.compile(
    r"(native|[a-z]+\d+(?:_dynamic|_static|_onnx|(?:_\d)+)?|bct)(?:_g(\d+))?(?:_([a-z]+))?"
)
FOR_STATES_ALONE = ("stairs16_8_4", "zip8_4", "zip4_2")
STATE_FORMATS = ("native", "bf16", "int8", "int4", *FOR_STATES_ALONE)


@dataclass(frozen=True)
class QuantPolicy:
    """Formats by linear role (q, k, v, o, up, gate, down, ...) and for the sequence state; a missing role is native."""

    roles: tuple[tuple[str, Format], ...] = ()
    state: Format = Format()

    def of_role(self, role: str) -> Format:
        return dict(self.roles).get(role, Format())

    @property
    def is_native(self) -> bool:
        return self.state == Format() and all(f == Format() for _, f in self.roles)

    def __str__(self) -> str:
        formats = [*self.roles, ("state", self.state)]
        return " ".join(f"{role}={f.name}" for role, f in formats if f != Format()) or "native"

    def to_json(self) -> dict[str, Any]:
        roles = {role: vars_of(f) for role, f in self.roles if f != Format()}
        return ({"roles": roles} if roles else {}) | (
            {"state": vars_of(self.state)} if self.state != Format() else {}
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantPolicy:
        roles = {role: Format(**f) for role, f in data.get("roles", {}).items()}
        return cls(tuple(sorted(roles.items())), Format(**data.get("state", {})))


def vars_of(fmt: Format) -> dict[str, Any]:
    """Return the fields of a format that differ from the default, for a short canonical form."""
    default = Format()
    return {n: getattr(fmt, n) for n in fmt.__dataclass_fields__ if getattr(fmt, n) != getattr(default, n)}


@dataclass(frozen=True)
class BlockSpec:
    """A token mixer then a channel mixer, each on the residual stream, with one kind of norm and projection.

    Raises ValueError for an unknown placement.
    """

    mixer: OpSpec = NONE
    ffn: OpSpec = NONE
    norm: OpSpec = NONE
    projection: OpSpec = DENSE
    placement: str = "pre"
    quant: QuantPolicy = QuantPolicy()

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ValueError(f"unknown placement {self.placement!r}; known: {', '.join(PLACEMENTS)}")

    @cached_property
    def _hash(self) -> int:
        return hash((self.mixer, self.ffn, self.norm, self.projection, self.placement, self.quant))

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_active(self) -> bool:
        return self.mixer != NONE or self.ffn != NONE

    def to_json(self) -> dict[str, Any]:
        quant = self.quant.to_json()
        return {
            "mixer": self.mixer.to_json(),
            "ffn": self.ffn.to_json(),
            "norm": self.norm.to_json(),
            "projection": self.projection.to_json(),
            "placement": self.placement,
        } | ({"quant": quant} if quant else {})

    @cached_property
    def canonical(self) -> str:
        return _canonical(self.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockSpec:
        ops = {n: OpSpec.from_json(data[n]) for n in ("mixer", "ffn", "norm", "projection") if n in data}
        return cls(
            **ops, placement=data.get("placement", "pre"), quant=QuantPolicy.from_json(data.get("quant", {}))
        )

    @cached_property
    def unquantized(self) -> BlockSpec:
        return self if self.quant.is_native else replace(self, quant=QuantPolicy())


INACTIVE = BlockSpec()


@dataclass(frozen=True)
class StageSpec:
    """`num_blocks` consecutive blocks of width `d_model`, run `repeats` times with the same weights."""

    num_blocks: int
    d_model: int
    enter: OpSpec = NONE
    leave: OpSpec = NONE
    repeats: int = 1

    def to_json(self) -> dict[str, Any]:
        return {
            "num_blocks": self.num_blocks,
            "d_model": self.d_model,
            "enter": self.enter.to_json(),
            "leave": self.leave.to_json(),
            "repeats": self.repeats,
        }

    @cached_property
    def canonical(self) -> str:
        return _canonical(self.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StageSpec:
        ends = {n: OpSpec.from_json(data[n]) for n in ("enter", "leave") if n in data}
        return cls(int(data["num_blocks"]), int(data["d_model"]), **ends, repeats=int(data.get("repeats", 1)))


@dataclass(frozen=True)
class ArchSpec:
    """A whole network. `d_model` is the width of the stem; every stage has its own.

    Raises ValueError for an unknown task, or where stages and blocks do not match in number.
    """

    task: str
    stem: OpSpec
    d_model: int
    blocks: tuple[BlockSpec, ...]
    stages: tuple[StageSpec, ...]
    head: OpSpec
    position: OpSpec = NONE
    final_norm: OpSpec = NONE
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; known: {', '.join(TASKS)}")
        if sum(s.num_blocks for s in self.stages) != len(self.blocks):
            counts = " + ".join(str(s.num_blocks) for s in self.stages)
            raise ValueError(f"the stages hold {counts} blocks, the architecture has {len(self.blocks)}")

    @property
    def is_causal(self) -> bool:
        return self.task == "causal_lm"

    @property
    def repeats(self) -> list[int]:
        """How often each block runs."""
        return [stage.repeats for stage in self.stages for _ in range(stage.num_blocks)]

    @property
    def depth(self) -> int:
        """The number of block runs; a repeated block counts each time."""
        return sum(times for times, block in zip(self.repeats, self.blocks, strict=True) if block.is_active)

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the network's formats except native, each once."""
        policies = dict.fromkeys(block.quant for block in self.blocks)
        found = [f for policy in policies for f in (*(f for _, f in policy.roles), policy.state)]
        return tuple(dict.fromkeys(f.name for f in found if f != Format()))

    @property
    def unquantized(self) -> ArchSpec:
        """The network in native precision: the same object where it is already."""
        if all(block.quant.is_native for block in self.blocks):
            return self
        return replace(self, blocks=tuple(block.unquantized for block in self.blocks))

    @cached_property
    def canonical(self) -> str:
        """One JSON text per architecture: sorted keys, no spaces. Cached blocks make this cheap in a search."""
        rest = _canonical(
            {
                "schema": self.schema,
                "task": self.task,
                "stem": self.stem.to_json(),
                "d_model": self.d_model,
                "head": self.head.to_json(),
                "position": self.position.to_json(),
                "final_norm": self.final_norm.to_json(),
            }
        )
        blocks = ",".join(b.canonical for b in self.blocks)
        stages = ",".join(s.canonical for s in self.stages)
        return f'{{"blocks":[{blocks}],"stages":[{stages}],"rest":{rest}}}'

    @cached_property
    def id(self) -> str:
        """Content id: 16 hexadecimal digits of the SHA-256 of the canonical form."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "task": self.task,
            "stem": self.stem.to_json(),
            "d_model": self.d_model,
            "blocks": [b.to_json() for b in self.blocks],
            "stages": [s.to_json() for s in self.stages],
            "position": self.position.to_json(),
            "final_norm": self.final_norm.to_json(),
            "head": self.head.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArchSpec:
        """Read `to_json`. Raises ValueError for a newer schema."""
        if data.get("schema", SCHEMA) > SCHEMA:
            raise ValueError(f"architecture schema {data['schema']} is newer than this program's {SCHEMA}")
        return cls(
            task=data["task"],
            stem=OpSpec.from_json(data["stem"]),
            d_model=int(data["d_model"]),
            blocks=tuple(BlockSpec.from_json(b) for b in data["blocks"]),
            stages=tuple(StageSpec.from_json(s) for s in data["stages"]),
            head=OpSpec.from_json(data["head"]),
            position=OpSpec.from_json(data["position"]),
            final_norm=OpSpec.from_json(data["final_norm"]),
        )


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))
