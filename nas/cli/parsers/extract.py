"""Options of `nas extract`."""

from __future__ import annotations

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, add_study, command, count
from nas.request.schema import ExtractRequest


def add(commands: Commands) -> None:
    text = "Cut a network out of a study as a folder that runs alone."
    c = command(commands, "extract", "extract:extract", text, db=False)
    add_study(c)
    c.add_argument("--knee", action="store_true", help="the balanced one of the front")
    c.add_argument("--trial", type=count(), metavar="N", help="one trial by its number")
    c.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="Q=V",
        help="the best whose objective Q is at most V, in the unit of `nas front`; may be repeated",
    )
    c.add_argument("--min", action="append", default=[], metavar="Q=V", help="the same, at least V")
    c.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    add_options(c, ExtractRequest)
