"""The argument parser and the options common to all commands. Imports stay light, so that `nas --help` is fast."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from nas.errors import UsageError
from nas.request.options import MOST_STEPS as MOST_STEPS
from nas.request.options import MOST_TRIALS as MOST_TRIALS
from nas.request.options import MOST_WORKERS as MOST_WORKERS
from nas.request.schema import IN_STUDIES, OVERWRITE
from searchspace.spec.reading import LARGEST, real, shown, unknown, whole


class Parser(argparse.ArgumentParser):
    """Reports an error in one sentence, with the nearest known command or option for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError with `message` instead of exiting."""
        raise UsageError(re.sub(r"^argument ([^:]+): ", r"\1 ", message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does. Raises UsageError for an unknown option, naming this command and its options."""
        found, rest = super().parse_known_args(args, namespace)
        for word in rest:
            if word.startswith("-"):
                option = word.partition("=")[0]
                known = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
                self.error(f"{self.prog}: {unknown(option, known)}")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, unknown(str(value), map(str, action.choices)))


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def command(commands: Commands, name: str, handler: str, text: str, db: bool = True) -> Parser:
    added = commands.add_parser(name, help=text, description=text)
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


def add_study(c: argparse.ArgumentParser) -> None:
    c.add_argument("study", help=IN_STUDIES)


def add_folder(c: argparse.ArgumentParser, out: str = "the folder to write") -> None:
    """--out, which must be given, and --overwrite."""
    c.add_argument("--out", required=True, metavar="FILE" if "file" in out else "DIR", help=out)
    c.add_argument("--overwrite", action="store_true", help=OVERWRITE)


def picture(text: str) -> str:
    """Argument type: the path of a PNG file, or "" for none. Raises ArgumentTypeError for another extension."""
    if text and not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{shown(text)}: name a file that ends in .png")
    return text


def count(least: int = 0, most: int = LARGEST) -> Callable[[str], int]:
    """Argument type: a whole number from `least` to `most`. Its result raises ArgumentTypeError for another value."""

    def read(text: str) -> int:
        try:
            return whole("", _number(text, int), least, most)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None

    return read


def amount(
    least: float = float("-inf"), most: float = float("inf"), above: float = float("-inf")
) -> Callable[[str], float]:
    """Argument type: a number in [least, most] and > `above`. Its result raises ArgumentTypeError otherwise."""

    def read(text: str) -> float:
        try:
            return real("", _number(text, float), least, most, above)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None

    return read


def _number(text: str, kind: type[int] | type[float]) -> object:
    try:
        return kind(text)
    except ValueError:
        return text
