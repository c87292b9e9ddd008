"""Strided attention: each group its own stride, between them every key."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, attention, build, output

DEFINING_TERM = ("(J + offset + 1) % self.stride == 0]", "(J + 1) % self.stride == 0]")


def strided(**items):
    settings = {"num_groups": 4, "heads_per_group": 1, "head_dim": 4, "window": 16, "stride": 4}
    return build("mixer", "strided_attention", **(settings | items))


def seen_by_group(module, T: int) -> torch.Tensor:
    """[G, T], True where the last query reaches the key through that group's values."""
    x, found = activations(T, B=1), []
    for g in range(module.G):
        weights = module.state_dict()
        kept = torch.zeros_like(weights["v_proj.weight"]).view(module.G, module.K, -1)
        kept[g] = weights["v_proj.weight"].view(module.G, module.K, -1)[g]
        y = x.clone().requires_grad_()
        v = y @ kept.flatten(0, 1).mT
        module.v_proj.forward = lambda _, v=v: v
        (gradient,) = torch.autograd.grad(output(module, x)[:, -1].sum(), y)
        found.append(gradient[0].any(-1))
    return torch.stack(found)


@pytest.mark.parametrize("T", [70, 128, 150])
def test_each_group_sees_near_blocks_and_its_stride(T: int):
    seen = seen_by_group(strided(), T)
    I = (T - 1) // 16
    for g, offset in enumerate([0, 2, 1, 3]):
        blocks = {J for J in range(I + 1) if J == I or (J + offset + 1) % 4 == 0}
        assert set((seen[g].nonzero().flatten() // 16).tolist()) == blocks
        assert seen[g].sum() == sum(min(16, T - 16 * J) for J in blocks)


def test_as_many_groups_as_the_stride_see_every_key_between_them():
    assert seen_by_group(strided(), 130).any(0).all()
    assert not seen_by_group(strided(num_groups=2), 130).any(0).all()


def test_a_group_keeps_its_stride_in_a_network_with_fewer_groups():
    assert torch.equal(seen_by_group(strided(num_groups=2), 130), seen_by_group(strided(), 130)[:2])


def test_a_stride_of_one_is_full_attention():
    module, x = strided(stride=1), activations(75)
    full = attention(num_groups=4, heads_per_group=1)
    full.load_state_dict(module.state_dict())
    assert_equal(output(module, x), output(full, x))


def test_a_window_over_the_sequence_is_full_attention():
    module, x = strided(window=80), activations(75)
    full = attention(num_groups=4, heads_per_group=1)
    full.load_state_dict(module.state_dict())
    assert_equal(output(module, x), output(full, x))


def test_far_keys_of_other_groups_are_not_kept():
    """After 8 blocks: the block that comes next sees none of them near, and 2 of 8 lie in each group's stride."""
    module = strided()
    empty = module.init_state(1, torch.device("cpu"), torch.float64)
    _, state = module(activations(128, B=1), Tokens(), empty)
    assert state["k"].shape[1] == 0
    assert [state["far"][f"k{g}"].shape[1] for g in range(4)] == [32] * 4
