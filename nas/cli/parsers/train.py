"""Options of `nas train`."""

from __future__ import annotations

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, add_study, command
from nas.request.schema import TrainRequest


def add(commands: Commands) -> None:
    text = "Which network of the front is best when each is trained by itself? Those that fall behind are stopped."
    c = command(commands, "train", "train:train", text, db=False)
    add_study(c)
    add_options(c, TrainRequest)
