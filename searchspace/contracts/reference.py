"""The fast form of every operator equals its plain reference, in values and gradients, with and without padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract
from searchspace.contracts.padding import padding
from searchspace.primitives.context import Tokens

TOLERANCE = 1e-9


def has_reference(case: Case) -> bool:
    return case.entry.reference is not None


def assert_equals_reference(case: Case, module: nn.Module, x: Tensor, facts: Tokens) -> None:
    """Compare outputs and gradients for x [B, T, D] at real tokens; outputs at padding are unspecified."""
    x = x.requires_grad_()
    expected, actual = cases.run_reference(case, module, x, facts), cases.run(case, module, x, facts)
    real = slice(None) if facts.valid is None or case.slot == "normalizer" else facts.valid
    of = f"of {x.shape[1]} tokens{'' if facts.valid is None else ' with padding'} differ from the reference"
    assert_close(actual[real], expected[real], TOLERANCE, f"outputs {of}")
    leaves = [x, *module.parameters()]
    cotangent = torch.randn_like(expected[real])
    found, wanted = (
        torch.autograd.grad(y[real], leaves, cotangent, allow_unused=True, materialize_grads=True)
        for y in (actual, expected)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert_close(ours, theirs, TOLERANCE, f"gradients {of}")


@contract(when=has_reference)
def fast_form_equals_reference(case: Case) -> None:
    module = case.build()
    for T in cases.lengths(case):
        assert_equals_reference(case, module, *cases.inputs(case, T))


@contract("mixer", "ffn", "norm", "normalizer", when=has_reference)
def fast_form_equals_reference_beside_padding(case: Case) -> None:
    module, (x, facts) = case.build(), cases.inputs(case, 20)
    assert_equals_reference(case, module, x, facts.replace(valid=padding()))


@contract("norm", when=has_reference)
def fast_form_equals_reference_in_training(case: Case) -> None:
    module = case.build().train()
    x, facts = cases.inputs(case, 20)
    assert_equals_reference(case, module, x, facts)
    assert_equals_reference(case, module, x, facts.replace(valid=padding()))
