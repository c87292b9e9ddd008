"""Options of `nas proxies`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_WORKERS, Commands, command, count


def add(commands: Commands) -> None:
    text = "Training-free scores of networks: what there is, and whether they rank networks better than size does."
    c = command(commands, "proxies", "proxies:show", text, db=False)
    actions = c.add_subparsers(metavar="action")
    command(actions, "list", "proxies:show", "The registered proxies.", db=False)
    c = command(
        actions,
        "report",
        "proxies:report",
        "Judge proxies, baselines and combinations by a table of trained networks.",
    )
    c.add_argument(
        "--table",
        required=True,
        metavar="PATH",
        help="a folder of `nas truth build`, a CSV with a column arch, or a published table",
    )
    c.add_argument("--proxies", metavar="NAMES", help="separated by commas; default all, 'none' for none")
    c.add_argument(
        "--limit", type=count(), default=0, metavar="N", help="only N networks, spread over the table"
    )
    c.add_argument("--labels", type=count(), default=60, help="networks a combination learns from; 0: none")
    c.add_argument("--draws", type=count(20, 100_000), default=200, help="bootstrap resamples")
    c.add_argument("--workers", type=count(1, MOST_WORKERS), default=1, help="processes that compute proxies")
    c.add_argument(
        "--out", default="", metavar="DIR", help="write report.json, plots of it and the scores there"
    )
    c.add_argument("--overwrite", action="store_true", help="replace what is there")
