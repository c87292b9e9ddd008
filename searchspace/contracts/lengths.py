"""An operator that is limited to the maximum length declares it, and networks refuse longer sequences."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from searchspace import registry
from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract, once
from searchspace.contracts.reference import assert_equals_reference, has_reference
from searchspace.model import Model

ON_SEQUENCES = ("mixer", "ffn", "norm", "position", "normalizer", "qk_norm", "score_bias", "feature_map")
SHORT, T = 16, 12


@contract(*ON_SEQUENCES, when=once)
def what_depends_on_the_longest_length_says_so(case: Case) -> None:
    """Change the maximum length, keep the weights; an undeclared operator must equal its reference beyond it too."""
    layout = replace(case.context.layout, max_len=SHORT)
    short = Case(case.slot, case.spec, replace(case.context, layout=layout))
    wide, narrow, (x, facts) = case.build(), short.build(), cases.inputs(case, T)
    weights, shapes = wide.state_dict(), {n: t.shape for n, t in narrow.state_dict().items()}
    depends = shapes != {n: t.shape for n, t in weights.items()}
    if not depends:
        narrow.load_state_dict(weights)
        with torch.no_grad():
            here, there = (cases.run(case, module, x, facts) for module in (wide, narrow))
        depends = not torch.allclose(here, there, rtol=1e-12, atol=1e-12)
    declared = any(entry.fixed_length for entry in registry.entries(case.slot, case.spec))
    assert declared == depends, f"fixed_length is {declared}, but the longest length changes it: {depends}"
    if not depends and has_reference(case):
        assert_equals_reference(short, narrow, *cases.inputs(case, SHORT + 4))


@contract(*ON_SEQUENCES, causal=True, when=once)
@torch.no_grad()
def a_network_goes_on_beyond_the_longest_length_or_refuses(case: Case) -> None:
    model = Model(cases.network(case)).eval()
    cases.randomize(model)
    longest = int(model.arch.stem["max_len"])
    ids = cases.network_inputs(model.arch, longest + 3, batch_size=1)
    before = model(ids[:, :longest])[0]
    if model.max_len is None:
        after = model(ids)[0][:, :longest]
        assert_close(
            after, before, 1e-9, f"tokens beyond the longest length of {longest} change those before"
        )
        return
    refusal = refused(model, ids)
    for what in (case.spec.op, str(longest), str(longest + 3)):
        assert what in refusal, (
            f"{longest + 3} tokens are refused with {refusal!r}, which does not name {what}"
        )


def refused(model: Model, ids: Tensor) -> str:
    """Return the error message for ids [B, T]; "" where the model accepts them."""
    try:
        model(ids)
    except ValueError as error:
        return str(error)
    return ""
