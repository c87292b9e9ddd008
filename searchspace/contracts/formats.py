"""The roles that an operator says can be quantized: each is a linear map of it, and computes in eight bits."""

from __future__ import annotations

from dataclasses import replace

import torch

from searchspace import registry
from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract
from searchspace.primitives.quantized_linear import QuantizedLinear
from searchspace.spec.arch import Format, QuantPolicy


@contract("mixer", "ffn", when=lambda case: case.rank == 0 and bool(case.entry.quantizable))
@torch.no_grad()
def quantizable_roles_compute_in_eight_bits(case: Case) -> None:
    fmt, named = Format.of("int8_dynamic"), set(case.entry.quantizable)
    roles = {str(part.role) for part in case.on_meta().modules() if hasattr(part, "role")} & named
    policy = QuantPolicy(tuple((role, fmt) for role in sorted(named)))
    module = registry.build(case.slot, case.spec, replace(case.context, quant=policy)).eval()
    x, facts = cases.inputs(case, 32)
    if case.entry.calibrate is not None:
        case.entry.calibrate(module, [(x, facts)])
    stored = {part.role for part in module.modules() if isinstance(part, QuantizedLinear)}
    assert stored == roles, f"{sorted(roles - stored)} are quantizable, but no linear maps of the context"
    y = cases.run(case, module, x, facts)
    assert y.isfinite().all(), "the output is not finite where its linear maps compute in eight bits"
