"""Routing attention: one cluster of everything is full attention; later tokens never choose for earlier ones."""

import torch

from searchspace import registry
from searchspace.primitives.context import Tokens
from searchspace.primitives.selection import latest_members, spherical_kmeans
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = (
    "order = of_keys.transpose(1, 2).argsort(dim=-1, stable=True)",
    "order = of_keys.transpose(1, 2).argsort(dim=-1, stable=True).flip(-1)",
    "searchspace/primitives/selection.py",
)


def routing(**items):
    module = build("mixer", "routing_attention", **(HEADS | items))
    calibrate = registry.operator("mixer", "routing_attention").calibrate
    assert calibrate is not None
    calibrate(module, [(activations(40), Tokens())])
    return module


def test_one_cluster_with_room_for_all_is_full_attention():
    module, full, x = routing(num_clusters=1, members=20, window=2), attention(), activations(20)
    full.load_state_dict({n: t for n, t in module.state_dict().items() if n != "centroids"})
    assert_equal(output(module, x), output(full, x))


def test_without_room_for_members_it_is_a_sliding_window():
    module, local, x = routing(num_clusters=4, members=0, window=5), attention(window=5), activations(20)
    local.load_state_dict({n: t for n, t in module.state_dict().items() if n != "centroids"})
    assert_equal(output(module, x), output(local, x))


def test_members_are_the_latest_of_the_cluster_before_the_limit():
    M, S = 3, 40
    of_keys, wanted = torch.randint(0, M + 1, (2, S, 2)), torch.randint(0, M, (2, S, 2, 2))
    until = torch.arange(S) - 3
    places, exist = latest_members(of_keys, wanted, until, 4, M)
    for b in range(2):
        for t in range(S):
            for g in range(2):
                for r in range(2):
                    members = [j for j in range(max(0, t - 3)) if of_keys[b, j, g] == wanted[b, t, g, r]]
                    found = places[b, t, g, r][exist[b, t, g, r]].tolist()
                    assert found == members[::-1][:4]


def test_k_means_finds_directions_far_apart():
    centres = torch.eye(3, 8, dtype=torch.float64)
    points = centres.repeat_interleave(5, 0) + 0.01 * torch.randn(15, 8, dtype=torch.float64)
    found = spherical_kmeans(points * torch.rand(15, 1, dtype=torch.float64).add(0.1), 3)
    assert_equal(found.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    assert sorted((found @ centres.mT).argmax(-1).tolist()) == [0, 1, 2]
    assert ((found @ centres.mT).amax(-1) > 0.99).all()


def test_no_gradient_goes_through_the_choice():
    module, x = routing(num_clusters=4, members=4, window=2), activations(20)
    output(module, x).sum().backward()
    assert not module.centroids.requires_grad
    assert module.q_proj.weight.grad.any()
