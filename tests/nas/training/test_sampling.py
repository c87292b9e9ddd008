"""Which networks the rules choose for a step, and who teaches whom."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.errors import UsageError
from nas.training.sampling import granularities, rule
from nas.training.sandwich import Sandwich
from nas.training.settings import TrainingSettings
from nas.training.supernet_trainer import SupernetTrainer
from searchspace.load import load_space
from searchspace.spec.arch import NONE
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
    with pytest.raises(
        UsageError, match=r"nothing but d_ff: tiny-lm does not fit, it also decides on d_model"
    ):
        granularities(Sandwich(load_space("tiny-lm"), 0, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "fair"}, "sampling: unknown 'fair'; known: sandwich, granularity"),
        ({"accumulation": 17}, "accumulation 17: give a whole number from 1 to 16"),
        ({"processes": 2}, "processes 2: give a whole number from 1 to 1"),
    ],
)
def test_settings_that_can_not_be_followed_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingSettings(**changes)


def test_soft_targets_change_what_the_networks_behind_the_first_learn(tmp_path: Path) -> None:
    def weights_after_a_step(threshold: float) -> torch.Tensor:
        settings = replace(toy.SETTINGS, steps=2)
        trainer = SupernetTrainer(toy.space(), toy.task(tmp_path), settings, tmp_path)
        trainer.threshold = threshold
        trainer.step()
        trainer.step()
        return torch.cat([t.detach().flatten() for t in trainer.trained.values()])

    assert not torch.equal(weights_after_a_step(float("inf")), weights_after_a_step(-float("inf")))
