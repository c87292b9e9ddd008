"""Options of `nas report`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(commands, "report", "report:report", "A study as one HTML file that opens offline.")
    c.add_argument("study")
    c.add_argument("--out", default="", metavar="HTML", help="default STUDY.html")
