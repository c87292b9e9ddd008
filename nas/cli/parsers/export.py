"""Options of `nas export`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(commands, "export", "export:export", "A study's trials as a file for another program.")
    c.add_argument("study")
    c.add_argument(
        "--format",
        default="csv",
        help="csv or parquet: a row for each trial, a column for each decision; json: all that is stored; "
        "optuna: a database that optuna-dashboard opens",
    )
    c.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    c.add_argument("--overwrite", action="store_true", help="replace the file")
