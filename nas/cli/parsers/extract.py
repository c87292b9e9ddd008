"""Options of `nas extract`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(
        commands, "extract", "extract:extract", "Cut a network out of a study as a folder that runs alone."
    )
    c.add_argument("study")
    which = c.add_mutually_exclusive_group(required=True)
    which.add_argument("--knee", action="store_true", help="the balanced one of the front")
    which.add_argument("--trial", type=int, default=None, metavar="N", help="one trial by its number")
    which.add_argument(
        "--max-latency", type=float, default=None, metavar="MS", help="the best within this many ms"
    )
    c.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    c.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
