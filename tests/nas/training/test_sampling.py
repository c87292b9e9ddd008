"""Which networks the rules choose for a step, and who teaches whom."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.errors import UsageError
from nas.training.sampling import granularities, rule
from nas.training.sandwich import ROUND, Sandwich
from nas.training.settings import TrainingSettings
from nas.training.supernet_trainer import SupernetTrainer
from searchspace.load import load_space
from searchspace.spec.arch import NONE
from searchspace.validity import why_invalid
from tests.nas.training import toy


def matformer(num_random: int) -> list[list[list[int]]]:
    """The FFN widths of the first block by step and team."""
    settings = TrainingSettings(sampling="granularity", num_random=num_random)
    teams = rule(Sandwich(load_space("tiny-matformer"), num_random, 0), settings)
    return [[[a.blocks[0].ffn["d_ff"] for a in team] for team in teams(step)] for step in range(8)]


def test_granularities_share_everything_but_one_ffn_width_that_all_blocks_have() -> None:
    sandwich = Sandwich(load_space("tiny-matformer"), 0, 0)
    found = granularities(sandwich)
    assert [{b.ffn["d_ff"] for b in a.blocks} for a in found] == [{32}, {64}, {128}, {256}]
    assert found[-1] == sandwich.largest
    assert {replace(a, blocks=tuple(replace(b, ffn=NONE) for b in a.blocks)).id for a in found} == {
        replace(found[0], blocks=tuple(replace(b, ffn=NONE) for b in found[0].blocks)).id
    }


def test_a_step_with_room_for_all_granularities_trains_each_once_and_the_widest_teaches() -> None:
    assert matformer(num_random=4) == [[[256, 128, 64, 32]]] * 8


def test_one_granularity_a_step_takes_turns_until_all_were_trained_equally_often() -> None:
    steps = [team[0] for teams in matformer(num_random=1) for team in teams]
    assert sorted(steps[:4]) == sorted(steps[4:]) == [32, 64, 128, 256]
    assert steps[:4] != [32, 64, 128, 256]


def test_a_space_that_decides_on_more_than_widths_has_no_granularities() -> None:
    with pytest.raises(UsageError, match=r"nothing but d_ff: tiny-lm is none, it also decides on d_model"):
        granularities(Sandwich(load_space("tiny-lm"), 0, 0))


def test_balanced_pairs_share_their_operators_and_take_every_mixer_equally_often() -> None:
    settings = TrainingSettings(sampling="balanced")
    sandwich = Sandwich(load_space("tiny-lm"), settings.num_random, 0)
    teams = rule(sandwich, settings)
    pairs = [pair for step in range(ROUND // 2) for pair in teams(step)]
    for full, partner in pairs:
        assert why_invalid(full) is None
        assert why_invalid(partner) is None
        assert full.d_model == sandwich.largest.d_model
    for block in range(4):
        counts = Counter(full.blocks[block].mixer.op for full, _ in pairs)
        assert len(counts) == 5
        assert (
            max(counts.values()) - min(counts.values()) <= 2
        )  # 12 each, but for what was not valid and drawn anew
    same = [
        a.mixer.op == b.mixer.op and a.ffn.op == b.ffn.op
        for full, partner in pairs
        for a, b in zip(full.blocks, partner.blocks, strict=True)
        if b.is_active
    ]
    assert sum(same) / len(same) > 0.95  # a partner whose operators are not valid at its size is another one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "fair"}, "sampling: unknown 'fair'; known: sandwich, balanced, granularity"),
        ({"accumulation": 17}, "accumulation 17: give a whole number from 1 to 16"),
        ({"processes": 2}, "processes 2: give a whole number from 1 to 1"),
    ],
)
def test_settings_that_can_not_be_followed_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingSettings(**changes)


def test_an_odd_number_of_networks_makes_no_pairs() -> None:
    settings = TrainingSettings(sampling="balanced", num_random=1)
    with pytest.raises(UsageError, match="num_random must be even with sampling balanced"):
        rule(Sandwich(toy.space(), 1, 0), settings)


def test_soft_targets_of_a_pair_change_what_its_second_network_learns(tmp_path: Path) -> None:
    def weights_after_a_step(threshold: float) -> torch.Tensor:
        settings = replace(toy.SETTINGS, sampling="balanced", steps=2)
        trainer = SupernetTrainer(toy.space(), toy.task(tmp_path), settings, tmp_path)
        trainer.threshold = threshold
        trainer.step()
        trainer.step()
        return torch.cat([t.detach().flatten() for t in trainer.trained.values()])

    assert not torch.equal(weights_after_a_step(float("inf")), weights_after_a_step(-float("inf")))
