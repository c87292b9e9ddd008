"""Options of `nas predict`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command, count
from nas.cli.parsers.profile import MIN_NETWORKS, MOST_NETWORKS, add_workload


def add(commands: Commands) -> None:
    c = command(
        commands,
        "predict",
        "predict:predict",
        "How good are latency predictions? On networks of a space measured here, or on a published table.",
        db=False,
    )
    c.add_argument(
        "action",
        nargs="?",
        default="evaluate",
        choices=["evaluate", "rates"],
        help="evaluate, as without it: predicted against measured; rates: this device's peak rates, for --rates",
    )
    what = c.add_mutually_exclusive_group(required=False)
    what.add_argument(
        "--space", default=None, help="a built-in space or a TOML file, measured on this device"
    )
    what.add_argument("--table", default=None, metavar="CSV", help="a latency table in HW-GPT or HAT form")
    c.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="CSV",
        help="with --table: another device's; repeatable",
    )
    c.add_argument(
        "--draws", type=count(1, 100_000), default=10, help="with --table: random choices of samples"
    )
    c.add_argument(
        "--networks",
        type=count(MIN_NETWORKS, MOST_NETWORKS),
        default=60,
        help="with --space: networks that the prediction is fitted to",
    )
    c.add_argument(
        "--held-out",
        type=count(MIN_NETWORKS, MOST_NETWORKS),
        default=100,
        metavar="N",
        help="with --space: others to predict",
    )
    c.add_argument("--seed", type=count(), default=0, help="decides what is drawn")
    add_workload(c)
