"""Options of `nas worker`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_WORKERS, Commands, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "worker",
        "worker:worker",
        "Evaluate waiting trials, and run the studies queued by `nas serve`, on this or any other host.",
    )
    c.add_argument("--study", default="", help="serve only this study; default any that has trials waiting")
    c.add_argument(
        "--workers",
        type=count(1, MOST_WORKERS),
        default=1,
        help="trials in parallel, each in its own process; default 1",
    )
    c.add_argument("--idle", metavar="10m", help="exit after this time without a trial; default never")
    c.add_argument(
        "--metric",
        default="",
        metavar="a,b",
        help="metrics MODULE:FUNCTION of studies that this worker may import",
    )
    c.add_argument(
        "--evaluate",
        default="",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your own evaluation function, as given to nas.search",
    )
