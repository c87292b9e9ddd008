"""Options of `nas prune`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(
        commands,
        "prune",
        "prune:prune",
        "Prune heads and FFN units of a trained network to a budget, by one of four methods or by all in comparison.",
        db=False,
    )
    c.add_argument("model", metavar="MODEL", help="a folder of `nas extract` or of `nas import`")
    c.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="Q=V",
        help="the budget: at most V of flops, parameters, memory, estimated_latency, or latency if this device is "
        "profiled; V%% is a share of the network's own value",
    )
    c.add_argument(
        "--method",
        default="all",
        help="importance of heads and units. nvit: Hessian-aware, per cost saved; optin: change of later layers "
        "without it; magnitude: of its weights; uniform: an equal share of each layer; all: each method; default all",
    )
    c.add_argument(
        "--rates", default="", metavar="flops=F,bytes=B,call=S", help="device rates for estimated_latency"
    )
    c.add_argument("--data", help="data for training and evaluation; default the network's own")
    c.add_argument(
        "--out",
        default="",
        metavar="DIR",
        help="write the network with the smallest loss as a folder that runs",
    )
    c.add_argument("--overwrite", action="store_true", help="replace what is there")
