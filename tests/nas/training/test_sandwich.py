"""The largest, the smallest and the random networks of a step."""

from collections import Counter

import pytest

from nas.training.sandwich import ROUND, Sandwich
from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.arch import NONE
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from searchspace.validity import why_invalid
from tests.nas.training import toy


def test_the_networks_of_a_step_depend_on_seed_and_step_alone() -> None:
    forwards, backwards = Sandwich(toy.space(), 2, seed=5), Sandwich(toy.space(), 2, seed=5)
    steps = range(0, 100, 7)
    assert [forwards.at(s) for s in steps] == [backwards.at(s) for s in reversed(steps)][::-1]


def test_another_seed_and_another_step_draw_other_networks() -> None:
    sandwich, other = Sandwich(toy.space(), 8, seed=5), Sandwich(toy.space(), 8, seed=6)
    assert sandwich.at(0)[2:] != other.at(0)[2:]
    assert sandwich.at(0)[2:] != sandwich.at(1)[2:]


@pytest.mark.parametrize("name", ["tiny-lm", "tiny-vision"])
def test_largest_and_smallest_bound_the_parameters_of_random_valid_networks(name: str) -> None:
    sandwich = Sandwich(load_space(name), 0, seed=0)
    largest, smallest = (cost(a, Workload()).parameters for a in sandwich.at(0))
    assert why_invalid(sandwich.largest) is None
    assert why_invalid(sandwich.smallest) is None
    for arch in sample(sandwich.encoding, 100, 0, Workload()):
        found = cost(arch, Workload()).parameters
        assert found <= largest
        if all(NONE not in (b.mixer, b.ffn) for b in arch.blocks if b.is_active):
            assert smallest <= found


def test_the_largest_network_uses_every_shared_weight_where_no_two_operators_have_weights_of_their_own() -> None:
    shared = sum(t.numel() for t in Supernet(toy.space()).parameters())
    assert cost(Sandwich(toy.space(), 0, seed=0).largest, Workload()).parameters == shared


def test_the_smallest_network_has_a_mixer_and_an_ffn_in_each_block_it_keeps() -> None:
    blocks = [b for b in Sandwich(load_space("tiny-lm"), 0, seed=0).smallest.blocks if b.is_active]
    assert len(blocks) == 2
    assert all(b.mixer != NONE and b.ffn != NONE for b in blocks)


def test_a_round_of_random_networks_takes_every_mixer_of_a_block_equally_often() -> None:
    sandwich = Sandwich(toy.space(), 2, seed=1)
    drawn = [a for step in range(ROUND // 2) for a in sandwich.at(step)[2:]]
    # The first block always exists. Of three mixers each is drawn 20 times; `none` is replaced where nothing remains.
    counts = Counter(a.blocks[0].mixer.op for a in drawn)
    assert counts["linear_attention"] >= ROUND // 3
    assert counts["pooling"] >= ROUND // 3
    assert counts["none"] > 0
