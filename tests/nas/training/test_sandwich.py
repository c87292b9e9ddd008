"""The largest, the smallest and the random networks of a step."""

from collections import Counter
from dataclasses import replace

import pytest

from nas.training.sandwich import ROUND, Sandwich
from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.arch import NONE
from searchspace.spec.workload import Workload
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
def test_largest_and_smallest_bound_the_parameters_of_networks_with_their_operators(name: str) -> None:
    space = load_space(name)
    sandwich = Sandwich(space, 0, seed=0)
    largest, smallest = (cost(a, Workload()).parameters for a in sandwich.at(0))
    assert why_invalid(sandwich.largest) is None
    assert why_invalid(sandwich.smallest) is None
    first = sandwich.largest.blocks[0]
    assert (first.mixer.op, first.ffn.op) == ("softmax_attention", "mlp")  # the first that the space names
    for arch in sample(sandwich.encoding, 100, 0, Workload()):
        like_largest = tuple(
            replace(b, mixer=w.mixer, ffn=w.ffn, norm=w.norm, placement=w.placement) if b.is_active else b
            for b, w in zip(arch.blocks, sandwich.largest.blocks, strict=True)
        )
        assert cost(replace(arch, blocks=like_largest), Workload()).parameters <= largest
        if all(NONE not in (b.mixer, b.ffn) for b in arch.blocks if b.is_active):
            assert smallest <= cost(arch, Workload()).parameters


def test_the_largest_attention_sees_the_whole_sequence_where_a_window_is_offered() -> None:
    assert Sandwich(load_space("tiny-lm"), 0, seed=0).largest.blocks[0].mixer["window"] == 0


def test_every_second_random_network_is_of_full_size() -> None:
    sandwich = Sandwich(toy.space(), 2, seed=1)
    for step in range(ROUND):
        _, _, full, _ = sandwich.at(step)
        assert full.d_model == 16
        assert all(b.ffn["d_ff"] == 32 for b in full.blocks if b.ffn != NONE)


def test_the_smallest_network_has_a_mixer_and_an_ffn_in_each_block_it_keeps() -> None:
    blocks = [b for b in Sandwich(load_space("tiny-lm"), 0, seed=0).smallest.blocks if b.is_active]
    assert len(blocks) == 2
    assert all(b.mixer != NONE and b.ffn != NONE for b in blocks)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_round_of_random_networks_takes_every_mixer_of_a_block_equally_often(kind: int) -> None:
    sandwich = Sandwich(toy.space(), 2, seed=1)
    counts = Counter(sandwich.at(step)[2 + kind].blocks[0].mixer.op for step in range(ROUND))
    # The first block always exists, so each of the three mixers is drawn 20 times. What is all `none` is not valid and
    # drawn anew.
    assert counts["linear_attention"] >= ROUND // 3
    assert counts["pooling"] >= ROUND // 3
    assert ROUND // 3 >= counts["none"] > 0
