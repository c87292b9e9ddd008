"""Options of `nas predict`."""

from __future__ import annotations

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, command, count
from nas.request.schema import EvaluateRequest


def add(commands: Commands) -> None:
    c = command(
        commands,
        "predict",
        "predict:predict",
        "Evaluate latency predictions on networks of a space timed on this device, or on a published table.",
        db=False,
    )
    c.add_argument(
        "action",
        nargs="?",
        default="evaluate",
        choices=["evaluate", "rates"],
        help="evaluate, the default: predicted against measured; rates: this device's peak rates, for --rates",
    )
    c.add_argument("--table", metavar="CSV", help="a latency table in HW-GPT or HAT form")
    c.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="CSV",
        help="with --table: a table of another device to transfer from; repeatable",
    )
    c.add_argument(
        "--draws",
        type=count(1, 100_000),
        help="with --table: number of random draws of samples; default 10",
    )
    c.add_argument("--seed", type=count(), default=0, help="random seed; default 0")
    add_options(c, EvaluateRequest)
