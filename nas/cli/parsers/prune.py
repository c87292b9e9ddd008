"""Options of `nas prune`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(
        commands,
        "prune",
        "prune:prune",
        "Cut a trained network down to a budget: heads and FFN units of each layer, by four methods in one table.",
        db=False,
    )
    c.add_argument("model", metavar="MODEL", help="a folder of `nas extract` or of `nas import`")
    c.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="Q=V",
        help="the budget: at most V of flops, parameters, memory, estimated_latency, or latency where this device is "
        "profiled; V%% is a share of what the network has",
    )
    c.add_argument(
        "--method",
        default="all",
        help="all: each of the others; nvit: Hessian-aware importance for what it saves; optin: what later layers make "
        "of its absence; magnitude: its weights; uniform: the same share everywhere; default all",
    )
    c.add_argument(
        "--rates", default="", metavar="flops=F,bytes=B,call=S", help="what estimated_latency goes by"
    )
    c.add_argument("--data", help="what to fit and judge it on; default the network's own")
    c.add_argument(
        "--out", default="", metavar="DIR", help="write the one with the smallest loss as a folder that runs"
    )
    c.add_argument("--overwrite", action="store_true", help="replace what is there")
