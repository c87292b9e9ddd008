"""In bfloat16 an operator errs no more than its formula must, and its gradients are finite."""

import pytest
import torch

from tests.contracts import cases
from tests.contracts.cases import Case

ON_TOKENS = ("mixer", "ffn", "norm", "projection", "transition")
BOUND = 2e-2  # relative error allowed in any case; bfloat16 rounds at 2^-8 = 4e-3


@pytest.mark.parametrize("case", cases.quick(*ON_TOKENS))
def test_bfloat16_errs_at_most_twice_as_much_as_the_reference(case: Case):
    module = case.build().to(torch.bfloat16)
    x, facts = cases.inputs(case, 48)
    x = x.to(torch.bfloat16)
    with torch.no_grad():
        y = cases.run(case, module, x, facts)
        plain = cases.run_reference(case, module, x, facts).double() if case.entry.reference else None
        truth = cases.run(case, module.double(), x.double(), facts)
    assert y.dtype == torch.bfloat16
    scale = truth.norm()
    allowed = BOUND if plain is None else max(BOUND, 2 * float((plain - truth).norm() / scale))
    assert (y.double() - truth).norm() / scale <= allowed


@pytest.mark.parametrize("case", cases.quick(*ON_TOKENS))
def test_gradients_are_finite_also_for_one_token_and_large_activations(case: Case):
    module = case.build().to(torch.bfloat16)
    sizes = (4, 16) if case.slot == "transition" else (1, 2, 21)
    for T in sizes:
        for scale in (1.0, 100.0):
            x, facts = cases.inputs(case, T, batch_size=1)
            x = (scale * x).to(torch.bfloat16).requires_grad_()
            y = cases.run(case, module, x, facts)
            assert y.isfinite().all()
            leaves = [x, *module.parameters()]
            gradients = torch.autograd.grad(
                y.float().sum(), leaves, allow_unused=True, materialize_grads=True
            )
            assert all(g.isfinite().all() for g in gradients)
