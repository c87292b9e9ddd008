"""Options of `nas solve`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command, count
from nas.request.schema import FORMATS


def add(commands: Commands) -> None:
    c = command(
        commands,
        "solve",
        "solve:solve",
        "Find the best network within budgets from a table of block scores, in seconds and without a new search.",
    )
    c.add_argument(
        "study", help="a study with a supernet; blocks are replaced in its largest network, the parent"
    )
    c.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="Q=V",
        help="at most V of latency, memory, parameters, active_parameters, active_weight_bytes, flops or state_bytes; "
        "repeatable",
    )
    c.add_argument(
        "--method",
        default="exact",
        help="exact: the smallest predicted loss of all networks of the table; mix-n-match: the parent with the widest "
        "ffns that fit, of sizes that never decrease from layer to layer; default exact",
    )
    c.add_argument(
        "--check",
        type=count(0, 100_000),
        default=0,
        metavar="N",
        help="also compare predicted with measured losses of N random networks",
    )
    c.add_argument(
        "--out", default="", metavar="DIR", help="write the network as a folder, like `nas extract`"
    )
    c.add_argument("--format", action="append", default=[], metavar="NAME", help=FORMATS)
    c.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
