"""Options of `nas report`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_study, command


def add(commands: Commands) -> None:
    c = command(commands, "report", "report:report", "Write a study as one HTML file that opens offline.")
    add_study(c)
    c.add_argument("--out", default="", metavar="HTML", help="file to write; default STUDY.html")
    c.add_argument("--overwrite", action="store_true", help="replace what is there")
