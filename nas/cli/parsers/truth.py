"""Options of `nas truth`."""

from __future__ import annotations

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, command
from nas.request.schema import TruthRequest


def add(commands: Commands) -> None:
    text = "Build or show a table of networks trained alone, the ground truth for cheaper measurements."
    actions = commands.add_parser("truth", help=text, description=text).add_subparsers(
        metavar="action", required=True
    )
    build = command(
        actions,
        "build",
        "truth:build",
        "Train architectures of a space; if run again, it continues.",
        db=False,
    )
    add_options(build, TruthRequest)
    show = command(
        actions,
        "show",
        "truth:show",
        "Compare a table's spread over architectures with that over seeds.",
        db=False,
    )
    show.add_argument("table", metavar="DIR", help="the folder that `nas truth build` wrote")
