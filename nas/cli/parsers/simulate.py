"""Options of `nas simulate`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_TRIALS, Commands, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "simulate",
        "simulate:simulate",
        "Replay searchers on a table of measured architectures, which takes milliseconds per trial.",
        db=False,
    )
    c.add_argument(
        "--table",
        required=True,
        metavar="FILE",
        help=".csv or .csv.gz with embed_dim, n_layer and columns that hold one number per layer, joined by -",
    )
    c.add_argument(
        "--objectives",
        required=True,
        metavar="Q,Q",
        help="quantities of the table to minimize; append :max to one to maximize it",
    )
    c.add_argument(
        "--searcher", default="guided", metavar="S,S", help="one or several searchers; default guided"
    )
    c.add_argument(
        "--evaluations", type=count(1, MOST_TRIALS), default=500, help="trials per search; default 500"
    )
    c.add_argument(
        "--seeds",
        type=count(1, 100_000),
        default=20,
        help="searches per searcher, with seeds 0, 1, ...; default 20",
    )
    c.add_argument(
        "--lag",
        type=count(0, MOST_TRIALS),
        default=0,
        help="number of latest results that a proposal can't use, as with parallel workers; default 0",
    )
