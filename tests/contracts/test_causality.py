"""A causal operator never looks ahead; a bidirectional one reaches every token it is allowed to."""

import pytest
import torch

from searchspace.model import Model
from tests.contracts import cases
from tests.contracts.cases import Case

ON_TOKENS = ("mixer", "ffn", "norm", "position")
T = 19  # more than a chunk, and more than the smallest window


@pytest.mark.parametrize("case", cases.quick(*ON_TOKENS, causal=True))
def test_no_output_has_a_gradient_from_later_tokens(case: Case):
    module, (x, facts) = case.build(), cases.inputs(case, T)
    x.requires_grad_()
    y = cases.run(case, module, x, facts)
    for t in (0, 7, T - 2):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert (gradient[:, t + 1 :] == 0).all()


@pytest.mark.parametrize("case", cases.quick(*ON_TOKENS, causal=True))
def test_changing_a_token_leaves_earlier_outputs_bitwise_equal(case: Case):
    module, (x, facts) = case.build(), cases.inputs(case, T)
    before = cases.run(case, module, x, facts)
    for t in (1, 15, 16, T - 1):
        changed = x.clone()
        changed[:, t] += 10 * torch.randn_like(changed[:, t])
        after = cases.run(case, module, changed, facts)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@pytest.mark.parametrize("case", cases.quick("mixer"))
def test_a_mixer_reaches_every_token_that_it_may(case: Case):
    """A window limits this; an operator's own test says to what exactly."""
    module, (x, facts) = case.build(), cases.inputs(case, T)
    x.requires_grad_()
    y = cases.run(case, module, x, facts)
    for t in (1, T - 2):
        (gradient,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        reached = (gradient != 0).any(-1).any(0)  # rectified features ignore some pairs
        if case.spec.get("window"):
            step = case.spec.get("dilation") or 1
            assert t < step or reached[t - step]
            assert case.causal or t + step >= T or reached[t + step]
        else:
            assert reached[: t + 1 if case.causal else T].all()


@pytest.mark.parametrize("case", cases.quick(causal=True))
def test_a_network_with_the_operator_is_causal(case: Case):
    arch = cases.network(case)
    model = Model(arch).eval()
    ids = cases.network_inputs(arch, T)
    before = model(ids)[0]
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % arch.stem["vocab_size"]
    assert torch.equal(model(changed)[0][:, :12], before[:, :12])
