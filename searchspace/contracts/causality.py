"""A causal operator never looks ahead; a bidirectional one reaches every token that it may see."""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract
from searchspace.model import Model

ON_TOKENS = ("mixer", "ffn", "norm", "position")
T = 19  # longer than a chunk and than the smallest window


@contract(*ON_TOKENS, causal=True)
def no_output_has_a_gradient_from_later_tokens(case: Case) -> None:
    module, (x, facts) = case.build(), cases.inputs(case, T)
    x.requires_grad_()
    y = cases.run(case, module, x, facts)
    for t in (0, 7, T - 2):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert not gradient[:, t + 1 :].any(), f"output {t} has a gradient from later tokens"


@contract(*ON_TOKENS, causal=True)
def changing_a_token_leaves_earlier_outputs_bitwise_equal(case: Case) -> None:
    """Later tokens must not enter the computation at all."""
    module, (x, facts) = case.build(), cases.inputs(case, T)
    before = cases.run(case, module, x, facts)
    for t in (1, 15, 16, T - 1):
        changed = x.clone()
        changed[:, t] += 10 * torch.randn_like(changed[:, t])
        after = cases.run(case, module, changed, facts)
        assert_same(case, after[:, :t], before[:, :t], f"changing token {t} changes outputs before it")
        assert not torch.equal(after[:, t], before[:, t]), f"changing token {t} does not change output {t}"


@contract(*ON_TOKENS, causal=True)
@torch.no_grad()
def outputs_for_a_prefix_are_the_prefix_of_the_outputs(case: Case) -> None:
    """Nothing may depend on the length of the sequence, such as a mean over all places or the end of a chunk."""
    module, (x, _) = case.build(), cases.inputs(case, T)
    whole = cases.run(case, module, x, cases.tokens(case, T))
    for t in (1, 15, 16, 17):
        alone = cases.run(case, module, x[:, :t], cases.tokens(case, t))
        assert_close(alone, whole[:, :t], 1e-9, f"{t} tokens alone differ from the first {t} of {T}")


@contract("mixer")
def a_mixer_reaches_every_token_that_it_may(case: Case) -> None:
    """A choice named `window` limits the reach; an operator's own test says exactly how."""
    module, (x, facts) = case.build(), cases.inputs(case, T)
    x.requires_grad_()
    y = cases.run(case, module, x, facts)
    for t in (1, T - 2):
        (gradient,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        reached = (gradient != 0).any(-1).any(0)  # rectified features ignore some pairs of tokens
        expected = list(range(t + 1 if case.causal else T))
        if case.spec.get("window"):
            step = case.spec.get("dilation") or 1
            expected = [s for s in (t - step, t if case.causal else t + step) if s in expected]
        for s in expected:
            assert reached[s], (
                f"output {t} has no gradient from token {s}, and no choice named window says why"
            )


@contract(causal=True)
@torch.no_grad()
def a_network_with_the_operator_is_causal(case: Case) -> None:
    arch = cases.network(case)
    model = Model(arch).eval()
    ids = cases.network_inputs(arch, T)
    before = model(ids)[0]
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % arch.stem["vocab_size"]
    after = model(changed)[0]
    assert_same(case, after[:, :12], before[:, :12], "changing token 12 changes logits before it")


def assert_same(case: Case, after: Tensor, before: Tensor, what: str) -> None:
    """Raises AssertionError where `after` and `before` [...] differ bitwise, as runs of equal shapes use equal kernels.

    Operators with conditional parts (experts) are compared within 1e-12: their products have one row per token that
    chose the part, and other numbers of rows may be summed in another order.
    """
    if case.entry.idle(case.on_meta()):
        assert_close(after, before, 1e-12, what)
    else:
        assert torch.equal(after, before), what
