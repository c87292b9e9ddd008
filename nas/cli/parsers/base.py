"""What every command takes; nothing heavy is imported here, so that `nas --help` answers at once."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(
    commands: Commands, name: str, handler: str, text: str, db: bool = True
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    added.set_defaults(handler=f"nas.cli.{handler}")
    added.add_argument(
        "--json", action="store_true", help="print JSON for a program instead of text for a person"
    )
    added.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if db:
        added.add_argument(
            "--db", default="", metavar="URL", help="database; default $NAS_DB or sqlite:///nas.db"
        )
    return added


def add_study(c: argparse.ArgumentParser, text: str = "its name, as `nas studies` lists it") -> None:
    c.add_argument("study", help=text)


def add_folder(c: argparse.ArgumentParser, out: str = "the folder to write") -> None:
    """--out, which must be given, and --overwrite."""
    c.add_argument("--out", required=True, metavar="FILE" if "file" in out else "DIR", help=out)
    c.add_argument("--overwrite", action="store_true", help="replace what is there")
