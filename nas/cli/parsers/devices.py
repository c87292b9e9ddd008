"""Options of `nas devices`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(commands, "devices", "devices:devices", "Which devices are known, and how well.", db=False)
    c.add_argument("action", nargs="?", default="list", choices=["list"], help="list, as without it")
