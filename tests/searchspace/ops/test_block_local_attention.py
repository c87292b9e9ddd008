"""Block-local attention is softmax attention that starts anew in every block."""

import pytest
import torch

from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = (
    "count = 1 if T == 1 else -(-end // size)",
    "count, size = (1, size) if T == 1 else (1, end)",
    "searchspace/primitives/masks.py",
)


@pytest.mark.parametrize("causal", [True, False])
def test_each_block_is_softmax_attention_on_its_own(causal: bool):
    local, full = build("mixer", "block_local_attention", causal, **HEADS, window=4), attention(causal)
    full.load_state_dict(local.state_dict())
    x = activations(11)
    assert_equal(output(local, x), torch.cat([output(full, part) for part in x.split(4, 1)], 1))


@pytest.mark.parametrize("causal", [True, False])
def test_a_block_as_long_as_the_sequence_is_full_attention(causal: bool):
    local, full = build("mixer", "block_local_attention", causal, **HEADS, window=16), attention(causal)
    full.load_state_dict(local.state_dict())
    x = activations(9)
    assert_equal(output(local, x), output(full, x))
