"""Patch merging sees exactly the four tokens of a cell, side by side."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, assert_equal, build

DEFINING_TERM = (".transpose(2, 3).flatten(3, 4)", ".flatten(3, 4)", "searchspace/primitives/cells.py")
FACTS = Tokens(grid=(4, 6))


def test_an_output_depends_on_the_tokens_of_its_cell_alone():
    module, x = build("transition", "patch_merge", causal=False), activations(24).requires_grad_()
    y, tokens, _ = module(x, FACTS)
    assert (tokens.grid, y.shape) == ((2, 3), (2, 6, 20))
    (gradient,) = torch.autograd.grad(y[:, 4].square().sum(), x)  # second row of cells, second column
    assert gradient.any(-1).any(0).nonzero().flatten().tolist() == [14, 15, 20, 21]


def test_the_norm_runs_over_the_whole_cell():
    """So a shift of all four tokens goes unseen."""
    module, x = build("transition", "patch_merge", causal=False), activations(24)
    assert_equal(module(x + 3.0, FACTS)[0], module(x, FACTS)[0])
    merged = torch.cat([x[:, t] for t in (0, 1, 6, 7)], -1)
    normed = (merged - merged.mean(-1, keepdim=True)) / (
        merged.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    assert normed.shape[-1] == 4 * D
    assert_equal(module(x, FACTS)[0][:, 0], normed @ module.merge_proj.weight.T)


def test_padding_has_no_influence_and_a_cell_of_padding_is_padding():
    module, x = build("transition", "patch_merge", causal=False), activations(24)
    valid = torch.arange(24).expand(2, 24) < 15
    facts = FACTS.replace(valid=valid)
    y, tokens, _ = module(x, facts)
    noisy = module(x + ~valid.unsqueeze(-1) * 5.0, facts)[0]
    assert_equal(noisy, y)
    assert tokens.valid.tolist() == [[True, True, True, True, True, False]] * 2
