"""Costs of an architecture that are known without running it: parameters, weight bytes, FLOPs, state bytes.

In networks with experts a token uses only some of the parameters: those are counted too, with the weight bytes that a
decoding step of one sequence reads.

Parts are built once on the meta device and cached by their spec, so a search over thousands of architectures builds
each operator setting once. FLOPs count matrix products, a multiply-add as 2, as FlopCounterMode does.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from searchspace import registry
from searchspace.model import Block, build_part, parts
from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.quantized_linear import QuantizedLinear
from searchspace.spec.arch import ArchSpec, BlockSpec, Format, OpSpec
from searchspace.spec.space import Constraint
from searchspace.spec.workload import Workload


@dataclass(frozen=True)
class Cost:
    """Totals of one architecture; `flops` and `state_bytes` are for the whole batch of the workload.

    `active_parameters` and `active_weight_bytes` are those used by one token.
    """

    parameters: int
    weight_bytes: int
    flops: int
    state_bytes: int
    active_parameters: int
    active_weight_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.state_bytes


QUANTITIES = (
    "parameters",
    "weight_bytes",
    "flops",
    "state_bytes",
    "memory_bytes",
    "active_parameters",
    "active_weight_bytes",
)


def check_constraint(constraint: Constraint) -> None:
    """Raises ValueError where the quantity is not known before training."""
    if constraint.quantity not in QUANTITIES:
        raise ValueError(
            f"unknown quantity {constraint.quantity!r} in a constraint; known: {', '.join(QUANTITIES)}"
        )


def cost(arch: ArchSpec, workload: Workload) -> Cost:
    """Return the cost of `arch` on `workload`. A repeated stage is stored once but computed and cached each time."""
    repeats = {f"blocks.{i}": times for i, times in enumerate(arch.repeats)}
    parameters = weight_bytes = flops = state_bytes = active_parameters = active_weight_bytes = 0
    places = parts(arch)
    tokens = arch_tokens(arch, workload)
    is_step = workload.phase == "decode"  # a part with a stride runs in one of `stride` steps
    for name, slot, spec, context in places:
        stride = context.layout.stride
        T, S = (context.layout.max_len,) * 2 if tokens is None else (-(-count // stride) for count in tokens)
        part = part_cost(slot, spec, context.anywhere, T, S, workload.bytes_per_value)
        parameters += part.parameters
        weight_bytes += part.weight_bytes
        flops += part.flops * repeats.get(name, 1) // (stride if is_step else 1)
        state_bytes += part.state_bytes * repeats.get(name, 1)
        active_parameters += part.active_parameters
        active_weight_bytes += part.active_weight_bytes
    flops, state_bytes = flops * workload.batch_size, state_bytes * workload.batch_size
    return Cost(parameters, weight_bytes, flops, state_bytes, active_parameters, active_weight_bytes)


def arch_tokens(arch: ArchSpec, workload: Workload) -> tuple[int, int] | None:
    """Return (queries, keys) of each layer; None where the grid determines them, since it changes with depth."""
    return (workload.num_queries, workload.num_keys) if arch.is_causal else None


@lru_cache(1 << 17)
def part_cost(
    slot: str, spec: OpSpec | BlockSpec, context: BuildContext, T: int, S: int, bytes_per_value: int
) -> Cost:
    """Return the cost of one part on one sequence of T queries and S keys."""
    if isinstance(spec, BlockSpec):
        return _block_cost(spec, context, T, S, bytes_per_value)
    module = on_meta(slot, spec, context)
    entry = registry.operator(slot, spec.op)
    parameters, weight_bytes = _stored(module, bytes_per_value)
    stored = (context.quant.state,) if slot == "mixer" and context.quant.state != Format() else ()
    state_bytes = entry.state_bytes(module, S, bytes_per_value, *stored) if context.causal else 0
    flops = entry.flops(module, T, S) + (0 if entry.counts_projections else projection_flops(module, T))
    idle = [_stored(unused, bytes_per_value) for unused in entry.idle(module)]
    active = (parameters - sum(count for count, _ in idle), weight_bytes - sum(size for _, size in idle))
    return Cost(parameters, weight_bytes, flops, state_bytes, *active)


def _block_cost(spec: BlockSpec, context: BuildContext, T: int, S: int, bytes_per_value: int) -> Cost:
    block = on_meta("block", spec, context)
    assert isinstance(block, Block)
    totals = [0] * len(fields(Cost))
    for name in block._modules:
        slot, op = ("norm", spec.norm) if "_norm_" in name else (name, getattr(spec, name))
        part = part_cost(slot, op, context, T, S, bytes_per_value)
        totals = [total + value for total, value in zip(totals, astuple(part), strict=True)]
    return Cost(*totals)


@lru_cache(1 << 16)
def on_meta(slot: str, spec: OpSpec | BlockSpec, context: BuildContext) -> nn.Module:
    """Return a shared part without storage, for reading shapes only."""
    with torch.device("meta"):
        return build_part(slot, spec, context)


def projections(module: nn.Module) -> list[Any]:
    """Return the linear maps that `context.linear` created in a module."""
    return [part for part in module.modules() if hasattr(part, "role")]


def projection_flops(module: nn.Module, T: int) -> int:
    return sum(
        2 * T * p.N * p.K
        if isinstance(p, QuantizedLinear)
        else registry.operator("projection", p.kind).flops(p, T, T)
        for p in projections(module)
    )


def _stored(module: nn.Module, bytes_per_value: int) -> tuple[int, int]:
    """(parameters, bytes): every declared tensor counts as parameters, except statistics, which only count bytes.

    Quantized weights count as the parameters they represent and as the bytes that are stored.
    """
    parameters = stored_bytes = 0
    for part in module.modules():
        if isinstance(part, QuantizedLinear):
            bias = part.tensors.get("bias")
            num_biases = 0 if bias is None else bias.numel()
            parameters += part.N * part.K + num_biases
            stored_bytes += num_biases * bytes_per_value
            stored_bytes += sum(t.nbytes for t in part.tensors.values() if t is not bias)
        elif isinstance(part, AxisModule):
            for declared in part.declared.values():
                size = torch.Size(declared.shape).numel()
                parameters += size if declared.role == "parameter" else 0
                stored_bytes += size * bytes_per_value
    return parameters, stored_bytes
