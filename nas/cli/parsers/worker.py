"""Options of `nas worker`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_WORKERS, Commands, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "worker",
        "worker:worker",
        "Evaluate what studies wait for, and drive those queued by `nas serve`, on this or any other host.",
    )
    c.add_argument("--study", default="", help="serve this study only; default any that has trials waiting")
    c.add_argument(
        "--workers",
        type=count(1, MOST_WORKERS),
        default=1,
        help="trials at a time, each in a process of its own",
    )
    c.add_argument("--idle", metavar="10m", help="end after this long without a trial; default never")
    c.add_argument(
        "--metric",
        default="",
        metavar="a,b",
        help="functions of your own that studies are judged by, MODULE:FUNCTION, which may be imported here",
    )
    c.add_argument(
        "--evaluate",
        default="",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your own judge, as given to nas.search",
    )
