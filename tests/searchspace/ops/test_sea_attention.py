"""SEA: full attention where every cell is chosen, and the cells that linear attention weighs most where not."""

import pytest
import torch

from searchspace.primitives.activations import elu_plus_one
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("sort(dim=-1, descending=True, stable=True)", "sort(dim=-1, descending=False, stable=True)")


def mix(module, s0: float, s1: float) -> None:
    """Gates of these logits, whatever x."""
    logits = torch.tensor([s0, s1], dtype=torch.float64).repeat(module.H)
    module.mix_proj.forward = lambda x: logits.expand(*x.shape[:2], -1)


@pytest.mark.parametrize("causal", [True, False])
def test_with_every_cell_and_open_gates_it_is_full_attention(causal: bool):
    sea, full, x = (
        build("mixer", "sea_attention", causal, **HEADS, cell=4, num_cells=8),
        attention(causal),
        activations(27),
    )
    full.load_state_dict({n: t for n, t in sea.state_dict().items() if "mix" not in n})
    mix(sea, 100.0, 100.0)
    assert_equal(output(sea, x), output(full, x))


def test_with_the_second_gate_closed_it_is_the_mean_of_what_was():
    sea, x = build("mixer", "sea_attention", **HEADS, cell=4, num_cells=1), activations(11)
    mix(sea, 0.0, -1000.0)
    v = sea.per_head(sea.v_proj(x).view(2, 11, 2, 4))
    mean = torch.stack([v[:, : i + 1].mean(1) for i in range(11)], 1)
    assert_equal(output(sea, x), sea.merge_heads(mean))


@pytest.mark.parametrize("causal", [True, False])
def test_the_chosen_cells_have_the_largest_share_of_linear_attention(causal: bool):
    sea, x = build("mixer", "sea_attention", causal, **HEADS, cell=4, num_cells=2), activations(24)
    q, k, _ = sea.queries_keys_values(x)
    places, counts = sea.selected(q, k, None)
    features = elu_plus_one(q), sea.per_head(elu_plus_one(k))
    shares = torch.einsum("bihk,bjhk->bihj", *features).unflatten(3, (-1, 4)).sum(-1)
    for i in range(24):
        others = [J for J in range(6) if (i // 4 > J if causal else i // 4 != J)]
        for h in range(4):
            found = set((places[0, i, h // 2, h % 2][counts[0, i, h // 2, h % 2]] // 4).tolist())
            assert found == set(sorted(others, key=lambda J: -shares[0, i, h, J])[:2])
