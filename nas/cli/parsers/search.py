"""Options of `nas search` and `nas resume`."""

from __future__ import annotations

import argparse

from nas.cli.options import add_options
from nas.cli.parsers.base import Commands, add_study, command, picture
from nas.request.schema import ResumeRequest, SearchRequest
from nas.searchers.registry import SEARCHERS


def add(commands: Commands) -> None:
    _search(commands)
    _resume(commands)


def _search(commands: Commands) -> None:
    text = "Search a space; every trial is stored in the database."
    c = command(commands, "search", "search:search", text, db=False)
    add_options(c, SearchRequest)
    c.add_argument("--print-recipe", action="store_true", help="print the settings as a recipe file and exit")
    _add_picture(c)
    width = max(map(len, SEARCHERS))
    c.formatter_class = argparse.RawDescriptionHelpFormatter
    c.epilog = "searchers:\n" + "\n".join(f"  {n:{width}}  {e.about}" for n, e in SEARCHERS.items())


def _resume(commands: Commands) -> None:
    text = "Resume a study; the result is the same as without an interruption."
    c = command(commands, "resume", "search:resume", text, db=False)
    add_study(c)
    add_options(c, ResumeRequest)
    _add_picture(c)


def _add_picture(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--picture",
        type=picture,
        metavar="PNG",
        help='file to draw the front to; default STUDY.png, "" for none',
    )
