"""Options of `nas export`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_folder, add_study, command


def add(commands: Commands) -> None:
    c = command(commands, "export", "export:export", "A study's trials as a file for another program.")
    add_study(c)
    c.add_argument(
        "--format",
        default="csv",
        help="csv or parquet: a row for each trial, a column for each decision; json: all that is stored; "
        "optuna: a database that optuna-dashboard opens",
    )
    add_folder(c, "the file to write")
