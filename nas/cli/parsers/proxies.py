"""Options of `nas proxies`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_WORKERS, Commands, command, count


def add(commands: Commands) -> None:
    text = (
        "List training-free scores of networks, or report whether they rank networks better than size does."
    )
    c = command(commands, "proxies", "proxies:show", text, db=False)
    actions = c.add_subparsers(metavar="action")
    command(actions, "list", "proxies:show", "List the registered proxies.", db=False)
    c = command(
        actions,
        "report",
        "proxies:report",
        "Evaluate proxies, baselines and combinations on a table of trained networks.",
    )
    c.add_argument(
        "--table",
        required=True,
        metavar="PATH",
        help="a folder of `nas truth build`, a CSV with a column arch, or a published table",
    )
    c.add_argument(
        "--proxies", metavar="NAMES", help="proxies, separated by commas; default all, 'none' for none"
    )
    c.add_argument(
        "--limit", type=count(), default=0, metavar="N", help="use only N networks, spread over the table"
    )
    c.add_argument(
        "--labels",
        type=count(),
        default=60,
        help="networks that combinations are fitted to; 0 for no combination; default 60",
    )
    c.add_argument("--draws", type=count(20, 100_000), default=200, help="bootstrap resamples; default 200")
    c.add_argument("--workers", type=count(1, MOST_WORKERS), default=1, help="processes that compute proxies")
    c.add_argument(
        "--out", default="", metavar="DIR", help="write report.json, its plots and the scores to this folder"
    )
    c.add_argument("--overwrite", action="store_true", help="replace what is there")
