"""Dense times sparse: each output combines the same number of shared features."""

import torch

from tests.searchspace.ops.identities import assert_equal
from tests.searchspace.ops.projection import projection

DEFINING_TERM = ("self.shadow - (self.shadow * dropped).detach()", "self.shadow")


def test_every_row_keeps_its_largest_entries():
    module = projection("dense_sparse", 6, 8, rank_ratio=1.0, density=0.5)
    sparse, shadow = module.sparse(), module.shadow
    assert ((sparse != 0).sum(-1) == 3).all()
    smallest_kept = sparse.abs().masked_fill(sparse == 0, torch.inf).amin(-1)
    assert (smallest_kept >= shadow.abs().masked_fill(sparse != 0, 0.0).amax(-1)).all()


def test_full_rows_are_the_low_rank_projection():
    module = projection("dense_sparse", 6, 8, rank_ratio=0.5, density=1.0)
    low_rank, x = projection("low_rank", 6, 8, rank_ratio=0.5), torch.randn(4, 8, dtype=torch.float64)
    low_rank.load_state_dict({"reduce": module.reduce, "expand": module.shadow})
    assert_equal(module(x), low_rank(x))


def test_the_gradient_reaches_dropped_entries_as_if_they_were_kept():
    module, x = projection("dense_sparse", 6, 8, rank_ratio=1.0, density=0.25), torch.randn(4, 8).double()
    (gradient,) = torch.autograd.grad(module(x).sum(), module.shadow)
    assert_equal(gradient, (x @ module.reduce.T).sum(0).expand(6, 6))
