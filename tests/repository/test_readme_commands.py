"""Every command of the README runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.cli.main import parser
from tests.repository.commands import BUDGETS, LEFT_OUT, budgeted, commands, walk


def test_every_command_parses_as_it_stands_and_on_its_budget() -> None:
    for line in commands():
        if line.startswith("nas "):
            parser().parse_args(line.split()[1:])
            parser().parse_args(budgeted(line).split()[1:])


def test_what_is_budgeted_or_left_out_is_in_the_readme() -> None:
    assert set(LEFT_OUT) <= set(commands())
    for start in BUDGETS:
        assert any(line.startswith(start) for line in commands()), start


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_run_in_the_order_in_which_a_newcomer_meets_them(tmp_path: Path) -> None:
    assert [line for line, _ in walk(tmp_path)] == commands()
