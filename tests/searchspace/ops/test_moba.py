"""Mixture of block attention: own block, and the earlier blocks whose mean key fits best."""

import torch

from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("scores.sort(dim=-1, descending=True", "scores.sort(dim=-1, descending=False")


def test_with_as_many_blocks_as_there_are_it_is_full_attention():
    module, full, x = build("mixer", "moba", **HEADS, block=4, num_blocks=5), attention(), activations(18)
    full.load_state_dict(module.state_dict())
    torch.testing.assert_close(output(module, x), output(full, x), rtol=1e-9, atol=1e-9)


def test_with_one_block_a_query_sees_its_own_alone():
    module, x = build("mixer", "moba", **HEADS, block=4, num_blocks=1), activations(10)
    alone = torch.cat([output(module, x[:, i : i + 4]) for i in (0, 4, 8)], 1)
    assert_equal(output(module, x), alone)


@torch.no_grad()
def test_the_block_whose_mean_key_points_as_the_query_does_is_seen():
    module, x = (
        build("mixer", "moba", num_groups=1, heads_per_group=1, head_dim=2, block=2, num_blocks=2),
        activations(7, 1),
    )
    for name in ("q_proj", "k_proj"):
        getattr(module, name).weight.copy_(torch.eye(2, x.shape[-1]))
    x[..., :2] = torch.tensor([[0.0, 1], [0, 1], [1, 1], [3, -1], [-5, 0], [-5, 0], [1, 0]])
    y = x.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(output(module, y)[0, 6].sum(), y)
    assert gradient[0].any(-1).tolist() == [False, False, True, True, False, False, True]
