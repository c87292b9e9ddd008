"""Options of `nas extract`."""

from __future__ import annotations

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, add_study, command, count
from nas.request.schema import ExtractRequest


def add(commands: Commands) -> None:
    text = "Write a network of a study as a folder that runs without this package."
    c = command(commands, "extract", "extract:extract", text, db=False)
    add_study(c)
    c.add_argument("--knee", action="store_true", help="the knee: the most balanced network of the front")
    c.add_argument("--trial", type=count(), metavar="N", help="the network of trial N")
    c.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="Q=V",
        help="the best network whose objective Q is at most V, in the unit of `nas front`; repeatable",
    )
    c.add_argument(
        "--min", action="append", default=[], metavar="Q=V", help="like --max, for Q of at least V"
    )
    c.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    add_options(c, ExtractRequest)
