"""Declared quantizable roles are linear maps that compute in eight bits. Of a state, rows of tokens are rounded and the
rest is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from searchspace import registry
from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract, once
from searchspace.contracts.decoding import decoded, network_of
from searchspace.model import Model
from searchspace.primitives.quantized_linear import QuantizedLinear
from searchspace.primitives.state_size import keeps_rows
from searchspace.primitives.stored_state import StoredRows, in_few_bits, read, store
from searchspace.spec.arch import ArchSpec, Format, QuantPolicy
from searchspace.validity import why_invalid

PROMPT, STEPS = 20, 6


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


@contract("mixer", causal=True, when=lambda case: once(case) and keeps_rows(case.entry.state_bytes))
@torch.no_grad()
def a_state_in_few_bits_is_rounded_row_by_row_and_takes_the_bytes_said(case: Case) -> None:
    native = network_of(case)
    ids = cases.network_inputs(native.arch, PROMPT + STEPS)
    expected, errors = native(ids)[0], {}
    exact = dict(_tensors(native(ids[:, :PROMPT], state=native.init_state(len(ids)))[1]))
    for name in ("int8", "int4"):
        fmt = Format.of(name)
        model = Model.from_weights(_with_state(native.arch, fmt), native.state_dict()).eval()
        state = model(ids[:, :PROMPT], state=model.init_state(len(ids)))[1]
        for where, kept in _tensors(state):
            _assert_rounded(kept, exact[where], f"{where} as {name}")
        for again, kept in zip(_tensors(store(read(state), state)), _tensors(state), strict=True):
            same = torch.equal(getattr(again[1], "codes", again[1]), getattr(kept[1], "codes", kept[1]))
            assert same, f"{kept[0]} as {name}: rows stored a second time have other codes"
        bytes_held = sum(kept.nbytes for _, kept in _tensors(state))
        module = model.part("blocks.0").mixer
        said = len(model.arch.blocks) * len(ids) * case.entry.state_bytes(module, PROMPT, 8, fmt)
        assert said == bytes_held, f"a state as {name} takes {bytes_held} bytes, not {said}"
        found = decoded(model, ids, [PROMPT, *[1] * STEPS])
        errors[name] = ((found - expected).norm() / expected.norm()).item()
    assert 0 < errors["int8"] < min(0.05, errors["int4"]), f"decoding from rounded states is off by {errors}"


@contract("mixer", causal=True, when=lambda case: once(case) and not keeps_rows(case.entry.state_bytes))
def a_state_without_rows_of_tokens_stays_native(case: Case) -> None:
    refusal = why_invalid(_with_state(cases.network(case), Format.of("int8")))
    assert (refusal or "").endswith("its state stays native"), f"a state as int8 is not refused: {refusal}"
    module: Any = case.build()
    state = module.init_state(1, torch.device("cpu"), torch.float64) if hasattr(module, "init_state") else {}
    grown = [where for where, tensor in _tensors(state) if in_few_bits(tensor)]
    assert not grown, f"{', '.join(grown)} grow by a row for each token, which `state_bytes` does not say"


def _with_state(arch: ArchSpec, fmt: Format) -> ArchSpec:
    return replace(arch, blocks=tuple(replace(b, quant=QuantPolicy(state=fmt)) for b in arch.blocks))


def _tensors(state: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield tensors, or the stored objects in their place, by path."""
    if isinstance(state, dict):
        for name in sorted(state):
            yield from _tensors(state[name], f"{where}.{name}" if where else name)
    elif hasattr(state, "nbytes"):
        yield where, state


def _assert_rounded(kept: Any, exact: Tensor, where: str) -> None:
    """Rounded to half a step plus the rounding of bfloat16 scales; unchanged where the state has no rows."""
    if isinstance(kept, Tensor):
        assert torch.equal(kept, exact), f"{where} is not what a native state holds"
        return
    assert isinstance(kept, StoredRows)
    scale = kept.scale.double().view(*exact.shape[:-1], 1)
    reach = 0.0 if kept.bits == 8 else 2**-8 * (kept.offset.double().abs().view_as(scale) + 16 * scale)
    off = (read(kept) - exact).abs()
    assert (off <= scale / 2 * (1 + 1e-5) + reach).all(), f"{where} is off by more than half a step"
