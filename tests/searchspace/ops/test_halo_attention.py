"""Halo attention: blocks with a halo, and offsets that move with the image."""

import torch

from searchspace.ops.attention.halo_attention import place_of
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("along_rows + along_columns", "along_rows")


def without_offsets(module):
    with torch.no_grad():
        module.row_offsets.zero_()
        module.column_offsets.zero_()
    return {n: t for n, t in module.state_dict().items() if "offsets" not in n}


def test_without_offsets_a_block_as_large_as_the_grid_is_full_attention():
    halo, full = build("mixer", "halo_attention", False, **HEADS, window=8, halo=1), attention(False)
    full.load_state_dict(without_offsets(halo))
    x = activations(35)
    assert_equal(output(halo, x, Tokens(grid=(5, 7))), output(full, x))


def test_without_offsets_and_halo_it_is_mask_unit_attention():
    halo = build("mixer", "halo_attention", False, **HEADS, window=4, halo=0)
    unit = build("mixer", "mask_unit_attention", False, **HEADS, window=4)
    unit.load_state_dict(without_offsets(halo))
    x, facts = activations(63), Tokens(grid=(7, 9))
    assert_equal(output(halo, x, facts), output(unit, x, facts))


def test_a_token_reaches_its_block_and_the_halo_around_it():
    x = activations(81).requires_grad_()
    y = output(build("mixer", "halo_attention", False, **HEADS, window=4, halo=2), x, Tokens(grid=(9, 9)))
    (gradient,) = torch.autograd.grad(y[:, 4 * 9 + 7].sum(), x)
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[2:9, 2:9] = True  # block 4 .. 7 enlarged to 2 .. 9, cut at the edge
    assert torch.equal(gradient[0].any(-1).view(9, 9), expected)


def test_rows_and_columns_have_offsets_of_their_own():
    """With scores from offsets alone, exchanging the tables transposes the image."""
    module = build("mixer", "halo_attention", False, **HEADS, window=4, halo=1)
    with torch.no_grad():
        module.k_proj.weight.zero_()
    x = activations(36)
    plain = output(module, x, Tokens(grid=(6, 6))).view(2, 6, 6, -1)
    weights = module.state_dict()
    weights["row_offsets"], weights["column_offsets"] = (
        weights["column_offsets"].clone(),
        weights["row_offsets"].clone(),
    )
    module.load_state_dict(weights)
    turned = output(module, x.view(2, 6, 6, -1).transpose(1, 2).flatten(1, 2), Tokens(grid=(6, 6)))
    assert_equal(turned.view(2, 6, 6, -1).transpose(1, 2), plain)
    assert not torch.allclose(output(module, x, Tokens(grid=(6, 6))).view(2, 6, 6, -1), plain)


def test_a_smaller_window_keeps_the_vectors_of_the_nearest_offsets():
    wide = build("mixer", "halo_attention", False, **HEADS, window=8, halo=3)
    near = build("mixer", "halo_attention", False, **HEADS, window=4, halo=1)
    assert (wide.num_offsets, near.num_offsets) == (21, 9)

    offsets = torch.arange(-10, 11)
    assert sorted(place_of(offsets).tolist()) == list(range(21))
    assert set(place_of(offsets[offsets.abs() <= 4]).tolist()) == set(range(9))
