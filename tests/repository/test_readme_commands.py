"""Every command of README and guide runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli.main import parser
from tests.repository.commands import BUDGETS, FENCED, LEFT_OUT, TEXT, budgeted, commands, walk

OWN_SCORE = "def my_score(arch):\n    return arch.d_model / sum(block.is_active for block in arch.blocks)\n\n"
OWN_SCORE += "def my_size(arch):\n    return arch.d_model**2\n\n"


def test_every_command_parses_as_it_stands_and_on_its_budget() -> None:
    for line in commands():
        if line.startswith("nas "):
            parser().parse_args(line.split()[1:])
            parser().parse_args(budgeted(line).split()[1:])


def test_what_is_budgeted_or_left_out_is_in_the_pages() -> None:
    assert set(LEFT_OUT) <= set(commands())
    for start in BUDGETS:
        assert any(line.startswith(start) for line in commands()), start


def test_the_lines_of_python_run(tmp_path: Path) -> None:
    (source,) = [block[2] for block in FENCED.finditer(TEXT) if block[1] == "python"]
    (tmp_path / "own.py").write_text(OWN_SCORE + source)
    done = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    best = [line for line in done.stdout.splitlines() if "'score'" in line]
    assert len(best) >= 1  # the front's members


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_run_in_the_order_in_which_a_newcomer_meets_them(tmp_path: Path) -> None:
    assert [line for line, _ in walk(tmp_path)] == commands()
