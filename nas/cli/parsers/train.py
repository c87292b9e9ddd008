"""Options of `nas train`."""

from __future__ import annotations

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, add_study, command
from nas.request.schema import TrainRequest


def add(commands: Commands) -> None:
    text = (
        "Train networks of the front, each alone, to find the best; those that fall behind are stopped early."
    )
    c = command(commands, "train", "train:train", text, db=False)
    add_study(c)
    add_options(c, TrainRequest)
