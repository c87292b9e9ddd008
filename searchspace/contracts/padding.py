"""Padding has no effect: neither on outputs at real tokens nor on any statistic of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract

ON_TOKENS = ("mixer", "ffn", "norm")


def padding() -> Tensor:
    """Return a mask [2, 20] with the first sequence padded on the right, the second on the left."""
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[0, 15:] = False
    valid[1, :3] = False
    return valid


@contract(*ON_TOKENS)
@torch.no_grad()
def padding_has_no_influence(case: Case) -> None:
    module, (x, facts) = case.build(), cases.inputs(case, 20)
    facts = facts.replace(valid=padding())
    noise = torch.where(padding().unsqueeze(-1), 0.0, 10 * torch.randn_like(x))
    before, after = cases.run(case, module, x, facts), cases.run(case, module, x + noise, facts)
    assert_close(after[padding()], before[padding()], 1e-12, "what stands at padding changes real outputs")


@contract(*ON_TOKENS)
@torch.no_grad()
def padding_on_the_right_equals_the_shorter_sequence(case: Case) -> None:
    """On a grid the padding is the last row, so that the real tokens form a grid."""
    module, (x, facts) = case.build(), cases.inputs(case, 20)
    short = cases.tokens(case, 15)
    assert short.grid in (None, (3, 5))
    valid = torch.arange(20).expand(2, 20) < 15
    padded = cases.run(case, module, x, facts.replace(valid=valid))
    alone = cases.run(case, module, x[:, :15], short)
    assert_close(padded[:, :15], alone, 1e-9, "15 tokens with padding differ from the 15 alone")


@contract(*ON_TOKENS)
@torch.no_grad()
def statistics_count_real_tokens_only(case: Case) -> None:
    """Tested in training mode, in which a norm uses the batch's statistics."""
    module: Any = case.build().train()
    x, facts = cases.inputs(case, 20)
    valid = torch.arange(20).expand(2, 20) < 15
    padded, padded_update = module(x, facts.replace(valid=valid))
    alone, update = module(x[:, :15], cases.tokens(case, 15))
    assert_close(padded[:, :15], alone, 1e-9, "in training 15 tokens with padding differ from the 15 alone")
    for name, value in (update or {}).items():
        assert_close(padded_update[name], value, 1e-9, f"with padding the statistic {name} differs")
