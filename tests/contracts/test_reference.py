"""The fast form of every operator equals its plain reference, in values and gradients, with and without padding."""

import pytest
import torch
from torch import Tensor, nn

from searchspace.primitives.context import Tokens
from searchspace.registry import Operator
from tests.contracts import cases
from tests.contracts.cases import Case

MANY = 400  # settings of one operator that the exhaustive group goes through
WITH_REFERENCE = [p for p in cases.quick() if p.entry.reference is not None]
MIXERS = cases.quick("mixer")


def assert_equals_reference(case: Case, module: nn.Module, x: Tensor, facts: Tokens) -> None:
    """At valid positions: outputs at padding are unspecified."""
    x = x.requires_grad_()
    expected, actual = cases.run_reference(case, module, x, facts), cases.run(case, module, x, facts)
    real = slice(None) if facts.valid is None or case.slot == "normalizer" else facts.valid
    torch.testing.assert_close(actual[real], expected[real], rtol=1e-9, atol=1e-9)
    leaves = [x, *module.parameters()]
    cotangent = torch.randn_like(expected[real])
    found, wanted = (
        torch.autograd.grad(y[real], leaves, cotangent, allow_unused=True, materialize_grads=True)
        for y in (actual, expected)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", WITH_REFERENCE)
def test_fast_form_equals_reference(case: Case):
    module = case.build()
    for T in cases.lengths(case):
        assert_equals_reference(case, module, *cases.inputs(case, T))


@pytest.mark.parametrize("case", [p for p in WITH_REFERENCE if p.slot in ("mixer", "norm", "normalizer")])
def test_fast_form_equals_reference_beside_padding(case: Case):
    module, (x, facts) = case.build(), cases.inputs(case, 20)
    assert_equals_reference(case, module, x, facts.replace(valid=padding()))


@pytest.mark.parametrize("case", [p for p in WITH_REFERENCE if p.slot == "norm"])
def test_fast_form_equals_reference_in_training(case: Case):
    module = case.build().train()
    x, facts = cases.inputs(case, 20)
    assert_equals_reference(case, module, x, facts)
    assert_equals_reference(case, module, x, facts.replace(valid=padding()))


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "context"), cases.exhaustive("mixer", "ffn", "norm", "projection"))
def test_every_setting_equals_its_reference(entry: Operator, context):
    for spec in cases.settings(entry.slot, entry.name, MANY):
        case = Case(entry.slot, spec, context)
        if entry.why_invalid(spec, context) is None:
            assert_equals_reference(case, case.build(), *cases.inputs(case, 18))


def padding() -> Tensor:
    """[2, 20] the first sequence padded on the right, the second on the left."""
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[0, 15:] = False
    valid[1, :3] = False
    return valid


@pytest.mark.parametrize("case", MIXERS)
def test_padding_has_no_influence(case: Case):
    module, (x, facts) = case.build(), cases.inputs(case, 20)
    facts = facts.replace(valid=padding())
    noise = torch.where(padding().unsqueeze(-1), 0.0, 10 * torch.randn_like(x))
    before, after = cases.run(case, module, x, facts), cases.run(case, module, x + noise, facts)
    torch.testing.assert_close(after[padding()], before[padding()], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", MIXERS)
def test_padding_on_the_right_equals_the_shorter_sequence(case: Case):
    """With a grid the padding is its last row, so that what is left is a grid."""
    module, (x, facts) = case.build(), cases.inputs(case, 20)
    short = cases.tokens(case, 15)
    assert short.grid in (None, (3, 5))
    valid = torch.arange(20).expand(2, 20) < 15
    padded = cases.run(case, module, x, facts.replace(valid=valid))
    torch.testing.assert_close(
        padded[:, :15], cases.run(case, module, x[:, :15], short), rtol=1e-9, atol=1e-9
    )
