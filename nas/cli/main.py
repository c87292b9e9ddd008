"""The command `nas`: what can be asked, and which function answers. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TypeAlias

EPILOG = """examples:
  nas spaces                                      what can be searched
  nas search --space tiny-lm --study first        search it
  nas front first                                 the networks worth having
  nas extract first --knee --out first-knee       one of them as a folder that runs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 a check failed, 2 it can't be done as asked, 3 a bug."""
    options = parser().parse_args(arguments)
    module, function = options.handler.split(":")
    try:
        status: int = getattr(import_module(module), function)(options)
        return status
    except KeyboardInterrupt:
        print("nas: interrupted; nothing that was finished is lost", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        from nas.errors import NasError, StoreError

        if options.debug:
            raise
        if isinstance(error, NasError | StoreError | ValueError):
            print(f"nas: {error}", file=sys.stderr)
            return 2
        print(f"nas: unexpected {type(error).__name__}: {error}; add --debug for where", file=sys.stderr)
        return 3


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="nas",
        description="Neural architecture search for efficient transformers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="command", required=True)
    _search(commands)
    _resume(commands)
    _look(commands)
    _extract(commands)
    _supernet(commands)
    return top


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: Commands, name: str, handler: str, text: str, db: bool = True
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(handler=f"nas.cli.{handler}")
    command.add_argument(
        "--json", action="store_true", help="print JSON for a program instead of text for a person"
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if db:
        command.add_argument(
            "--db", default="", metavar="URL", help="database; default $NAS_DB or sqlite:///nas.db"
        )
    return command


def _running(command: argparse.ArgumentParser) -> None:
    command.add_argument("--time", default=None, metavar="30m", help="stop after this long: 90s, 30m, 2h")
    command.add_argument(
        "--runner", default="", help="local: this process; pool: several; default by the objectives"
    )
    command.add_argument(
        "--workers", type=int, default=0, help="processes of --runner pool; default one for each core"
    )
    command.add_argument(
        "--picture",
        default=None,
        metavar="PNG",
        help='where to draw the front; default STUDY.png, "" for none',
    )


def _search(commands: Commands) -> None:
    c = _command(commands, "search", "search:search", "Search a space; every trial is kept in the database.")
    c.add_argument("--space", default=None, help="a built-in space or a TOML file")
    c.add_argument("--study", default="", help="name of the study; default the space's")
    c.add_argument("--trials", type=int, default=None, help="architectures to evaluate")
    c.add_argument(
        "--objectives", default=None, metavar="a,b", help="quantities to improve, first the most important"
    )
    c.add_argument(
        "--max", action="append", default=[], metavar="q=v", help="upper bound on a quantity; repeatable"
    )
    c.add_argument(
        "--min", action="append", default=[], metavar="q=v", help="lower bound on a quantity; repeatable"
    )
    c.add_argument("--searcher", default=None, help="random, tpe or nsga2")
    c.add_argument(
        "--quality", default=None, help="how quality is judged: supernet (inherited weights) or proxy"
    )
    c.add_argument("--data", default=None, metavar="PATH", help="your own text file or folder")
    c.add_argument("--device", default="cpu", help="what latency is measured on: cpu or cuda")
    c.add_argument("--seed", type=int, default=None, help="decides every architecture that is tried")
    c.add_argument("--recipe", default=None, metavar="TOML", help="all settings from a file")
    c.add_argument("--print-recipe", action="store_true", help="print the settings as a recipe file and stop")
    _running(c)


def _resume(commands: Commands) -> None:
    c = _command(commands, "resume", "search:resume", "Go on with a study as if it had never stopped.")
    c.add_argument("study")
    c.add_argument("--trials", default="0", metavar="+N", help="evaluate N more than the study was to have")
    _running(c)


def _look(commands: Commands) -> None:
    _command(commands, "studies", "look:studies", "Which studies there are, and how far they are.")
    front = _command(commands, "front", "look:front", "The networks of a study that no other beats.")
    front.add_argument("study")
    front.add_argument("--picture", default=None, metavar="PNG", help="also draw the front")
    ops = _command(commands, "ops", "look:operators", "Which operators there are.", db=False)
    ops.add_argument("--slot", default=None, help="only those for one place: mixer, ffn, norm, ...")
    ops.add_argument("--catalogue", action="store_true", help="published designs, and what answers each")
    spaces = _command(
        commands,
        "spaces",
        "look:spaces",
        "Which spaces there are; `spaces check FILE` examines one.",
        db=False,
    )
    spaces.add_argument(
        "action", nargs="?", choices=["check"], help="check: size, valid share, costs, estimated time"
    )
    spaces.add_argument("file", nargs="?", help="a built-in space or a TOML file")


def _extract(commands: Commands) -> None:
    c = _command(
        commands, "extract", "extract:extract", "Cut a network out of a study as a folder that runs alone."
    )
    c.add_argument("study")
    which = c.add_mutually_exclusive_group(required=True)
    which.add_argument("--knee", action="store_true", help="the balanced one of the front")
    which.add_argument("--trial", type=int, default=None, metavar="N", help="one trial by its number")
    which.add_argument(
        "--max-latency", type=float, default=None, metavar="MS", help="the best within this many ms"
    )
    c.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    c.add_argument("--overwrite", action="store_true", help="replace what is in the folder")


def _supernet(commands: Commands) -> None:
    c = _command(
        commands,
        "trust",
        "trust:trust",
        "Can the losses of a search be trusted? Inherited against trained alone.",
    )
    c.add_argument("study")
    c.add_argument("--networks", type=int, default=12, help="how many networks to train alone")
    c.add_argument("--steps", type=int, default=300, help="training steps of each")


if __name__ == "__main__":
    sys.exit(main())
