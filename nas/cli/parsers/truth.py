"""Options of `nas truth`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_WORKERS, Commands, add_kernels, command, count


def add(commands: Commands) -> None:
    text = "Networks trained alone: the table that cheap judgements are compared with."
    actions = commands.add_parser("truth", help=text, description=text).add_subparsers(
        metavar="action", required=True
    )
    build = command(
        actions, "build", "truth:build", "Train architectures of a space; run again, it goes on.", db=False
    )
    build.add_argument("--space", required=True, help="a built-in space or a TOML file")
    build.add_argument(
        "--count", type=count(2, 1_000_000), default=96, help="architectures, in groups of equal size"
    )
    build.add_argument("--out", required=True, metavar="DIR", help="the folder of the table")
    build.add_argument(
        "--design-seed", type=count(), default=0, help="chooses the architectures; another one adds a shard"
    )
    build.add_argument("--recipe", default=None, metavar="TOML", help="how they are trained: table [alone]")
    build.add_argument(
        "--workers", type=count(0, MOST_WORKERS), default=0, help="processes; default one for each core"
    )
    build.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="what trains; default cpu")
    add_kernels(build)
    show = command(
        actions, "show", "truth:show", "Does a table tell architectures apart, or only seeds?", db=False
    )
    show.add_argument("table", metavar="DIR", help="the folder that `nas truth build` wrote")
