"""The command `nas`: parses arguments and calls a command's function. Imports are deferred until they are needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from nas.cli.parsers.base import Parser
from searchspace.spec.reading import shown

# The commands in the order of `nas --help`; each module adds its own.
GROUPS = (
    "search",
    "look",
    "importing",
    "extract",
    "train",
    "report",
    "linearize",
    "prune",
    "solve",
    "export",
    "trust",
    "simulate",
    "truth",
    "proxies",
    "worker",
    "serve",
    "tokens",
    "predict",
    "profile",
    "devices",
)

EPILOG = """examples:
  nas spaces                                      list the search spaces
  nas search --space tiny-lm --study first        search one of them
  nas front first                                 show the Pareto front
  nas extract first --knee --out first-knee       write one network as a folder that runs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 success, 1 a check failed, 2 an invalid request, 3 a bug."""
    options = argparse.Namespace(debug=False)
    try:
        parser().parse_args(arguments, options)
        module, function = options.handler.split(":")
        status: int = getattr(import_module(module), function)(options)
        return status
    except KeyboardInterrupt:
        print("nas: interrupted; finished work is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        from nas.errors import NasError, StoreError
        from studies.rows import storable

        if options.debug:
            raise
        if isinstance(error, UnicodeEncodeError):  # a lone surrogate, as in a name in another encoding
            print(
                f"nas: {storable(shown(error.object))}: is not valid UTF-8; give a name that is",
                file=sys.stderr,
            )
            return 2
        if isinstance(error, NasError | StoreError | ValueError):
            print(f"nas: {storable(str(error))}", file=sys.stderr)
            return 2
        if (
            isinstance(error, OSError) and error.strerror
        ):  # a full disk, no permission, a name that is too long
            where = f"{shown(os.fsdecode(error.filename))}: " if error.filename else ""
            print(f"nas: {where}{error.strerror}; choose another path, or fix this one", file=sys.stderr)
            return 2
        reason = storable(f"unexpected {type(error).__name__}: {error}")
        print(f"nas: {reason}; add --debug for a traceback", file=sys.stderr)
        return 3


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"nas {version('efficient-transformer-nas')}")
        parser.exit()


def parser() -> Parser:
    top = Parser(
        prog="nas",
        description="Neural architecture search for efficient transformers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = top.add_subparsers(metavar="command", required=True)
    for group in GROUPS:
        import_module(f"nas.cli.parsers.{group}").add(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
