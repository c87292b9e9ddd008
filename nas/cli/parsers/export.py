"""Options of `nas export`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_folder, add_study, command


def add(commands: Commands) -> None:
    c = command(commands, "export", "export:export", "Write a study's trials to a file for another program.")
    add_study(c)
    c.add_argument(
        "--format",
        default="csv",
        help="csv or parquet: a row per trial, a column per decision; json: everything stored; optuna: a database "
        "that optuna-dashboard opens; default csv",
    )
    add_folder(c, "the file to write")
