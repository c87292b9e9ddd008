"""Formats that a search for low latency in torch tries: those whose kernels pay off at the shapes of its maps."""

from __future__ import annotations

from functools import lru_cache

from searchspace.cost import on_meta, projections
from searchspace.model import parts
from searchspace.primitives.context import BuildContext
from searchspace.primitives.quantized_linear import QuantizedLinear, why_not_offered
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec
from searchspace.spec.workload import Workload


def why_slow(arch: ArchSpec, workload: Workload, device: str) -> str | None:
    """Return the first linear map, with its block, whose format is slower there than bf16; None without one."""
    num_tokens = workload.batch_size * workload.num_queries
    for name, slot, spec, context in parts(arch):
        if slot == "block" and context.quant.roles:
            reason = _why_slow(slot, spec, context.anywhere, num_tokens, device)
            if reason is not None:
                return f"{name}, {reason}"
    return None


@lru_cache(1 << 16)
def _why_slow(
    slot: str, spec: OpSpec | BlockSpec, context: BuildContext, num_tokens: int, device: str
) -> str | None:
    for part in projections(on_meta(slot, spec, context)):
        if isinstance(part, QuantizedLinear):
            reason = why_not_offered(part.format, device, num_tokens, part.N)
            if reason is not None:
                return f"{part.role}: {reason}"
    return None
