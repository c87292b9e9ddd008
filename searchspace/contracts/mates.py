"""In evaluation mode a sequence is computed as if it were alone in the batch."""

from __future__ import annotations

import torch

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract, once

ON_SEQUENCES = ("mixer", "ffn", "norm", "normalizer", "qk_norm", "feature_map", "activation", "projection")


@contract(*ON_SEQUENCES, "transition", "way_back", "position", when=once)
@torch.no_grad()
def a_sequence_does_not_depend_on_its_batch(case: Case) -> None:
    """Compared within a tolerance, since products with more rows may be summed in another order."""
    module, (x, facts) = case.build(), cases.inputs(case, 16)
    before = cases.run(case, module, x, facts)
    mates = torch.cat((x[:1], 50 * torch.randn_like(x[1:])))
    after, alone = cases.run(case, module, mates, facts), cases.run(case, module, x[:1], facts)
    assert_close(after[0], before[0], 1e-12, "another sequence in the batch changes the first")
    assert_close(alone[0], before[0], 1e-12, "the first sequence alone differs from the first of two")
