"""Visual tokens see their neighbours, and some heads don't see them."""

from typing import Any

import pytest
import torch

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output
from tests.searchspace.ops.visual import (
    HEADS,
    assert_equals_reference_and_decodes,
    assert_is_softmax_attention_without_an_image,
    plain_of,
    sequence,
)

DEFINING_TERM = ("near[0] & near[1]", "near[0] | near[1]")
CALIBRATE: Any = registry.operator("mixer", "yopo_attention").calibrate


def yopo(causal: bool = True, visual_window: int = 3) -> Any:
    return build("mixer", "yopo_attention", causal, **HEADS, visual_window=visual_window)


def test_a_window_as_large_as_the_image_and_no_head_cut_is_softmax_attention():
    for causal in (True, False):
        (x, tokens), module = sequence(), yopo(causal, 7)
        assert_equal(output(module, x, tokens), output(plain_of(module, causal), x))
        assert_is_softmax_attention_without_an_image(yopo(causal), causal)


@torch.no_grad()
def test_with_an_image_it_equals_its_reference_and_decodes():
    module = yopo()
    module.seeing_heads[1] = 0.0
    assert_equals_reference_and_decodes(module, "yopo_attention", *sequence())


def test_a_visual_token_does_not_see_one_two_columns_away():
    x, tokens = sequence()
    weights, _, _ = yopo().map(x, tokens)
    first_row, second_row = (2, 3, 4), (5, 6, 7)
    assert not weights[0, :, first_row[2], first_row[0]].any()
    assert not weights[0, :, second_row[2], first_row[0]].any()
    assert weights[0, :, second_row[1], list(first_row)].all()
    assert weights[0, :, 9, :10].all()


@torch.no_grad()
def test_a_head_that_looks_away_from_the_image_is_cut():
    """Visual tokens have a 1 in channel 0; only the first head's keys there fit the queries of text."""
    module = build("mixer", "yopo_attention", num_groups=2, heads_per_group=1, head_dim=4, visual_window=3)
    _, tokens = sequence()
    x = torch.zeros(2, 11, 12).double()
    x[..., 1] = 1.0
    assert tokens.modality is not None
    x[..., 0] = tokens.modality
    module.q_proj.weight.zero_()
    module.k_proj.weight.zero_()
    module.q_proj.weight[[0, 4], 1] = 1.0
    module.k_proj.weight[0, 0], module.k_proj.weight[4, 0] = 20.0, -20.0
    CALIBRATE(module, [(x, tokens)])
    assert module.seeing_heads.tolist() == [1.0, 0.0]


def test_an_image_without_a_grid_is_refused():
    with pytest.raises(ValueError, match=r"needs Tokens\.grid"):
        yopo()(activations(11), Tokens(modality=torch.ones(2, 11, dtype=torch.bool)))
