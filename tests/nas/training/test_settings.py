"""Training settings as JSON, and what is refused."""

import pytest

from nas.errors import UsageError
from nas.training.settings import TrainingSettings


def test_settings_come_back_from_json() -> None:
    settings = TrainingSettings(steps=7, learning_rate=1e-3, seed=9)
    assert TrainingSettings.from_json(settings.to_json()) == settings


def test_settings_that_are_not_named_take_their_defaults() -> None:
    assert TrainingSettings.from_json({"steps": 5}) == TrainingSettings(steps=5)


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"unknown training setting 'step'.* known: steps"):
        TrainingSettings.from_json({"step": 5})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("learning_rate", 0.0),
        ("soft_target_weight", 1.5),
        ("seed", -1),
        ("seed", 2**64),
        ("steps", 2.5),
        ("steps", True),
        ("batch_size", "16"),
        ("weight_decay", float("nan")),
        ("grad_clip", float("inf")),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name} {value}: give a"):
        TrainingSettings.from_json({name: value})
