"""Options of `nas profile`."""

from __future__ import annotations

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, command
from nas.request.schema import ProfileRequest


def add(commands: Commands) -> None:
    text = "Profile this device for a space; with --samples, adapt another device's profile."
    add_options(command(commands, "profile", "profile:profile", text, db=False), ProfileRequest)
