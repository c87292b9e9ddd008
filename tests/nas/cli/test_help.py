"""`nas --help` and the help of every command answer for each option."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from nas.cli.main import parser


def commands(of: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield of
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)


def test_every_command_and_every_option_says_what_it_is_for() -> None:
    for command in commands(parser()):
        assert command.description, command.prog
        for action in command._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, f"{command.prog} {action.dest}"


def test_the_help_of_every_command_can_be_printed() -> None:
    for command in commands(parser()):
        assert command.format_help().startswith(f"usage: {command.prog}")
