"""What answers a design is something that a user reaches, or the word that it is not built."""

import re
from pathlib import Path

import pytest

from nas.cli.main import parser
from searchspace import registry
from searchspace.catalogue import LISTED, Row, rows

ROOT = Path(__file__).parents[2]
ROWS = rows()
NOT_BUILT = (
    "nothing to build",
    "no architecture",
    "nothing that differs per layer",
    "not built",
    "no task here",
)
FILE = re.compile(r"\b(?:searchspace|nas|proxies|predictors|studies|tests)/[\w/.-]*\w")
COMMAND = re.compile(r"`nas ([a-z]+)")
QUOTED = re.compile(r"`[^`]*`")
WORD_OF_PLANNING = re.compile(r"\b[A-Z]{5,}\b|\bTODO\b")


def reached_by(row: Row) -> list[str]:
    """Operators, commands, operators' names in the text, and files that are no tests."""
    files = [name for name in FILE.findall(row.elsewhere) if not name.startswith("tests/")]
    named = {name for _, name in registry.operators()} & set(re.findall(r"\w+", row.elsewhere))
    spaces = ["space"] if re.search(r"\ba space\b", row.elsewhere) else []
    return [*(name for _, name, _ in row.operators), *COMMAND.findall(row.elsewhere), *named, *files, *spaces]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.row))
def test_a_design_is_reached_by_more_than_a_test_or_said_not_to_be_built(row: Row):
    assert not WORD_OF_PLANNING.search(QUOTED.sub("", row.elsewhere))
    assert reached_by(row) or any(words in row.elsewhere for words in NOT_BUILT)


def test_files_and_commands_that_are_named_are_there():
    (commands,) = [a.choices for a in parser()._actions if a.choices and "search" in a.choices]
    for row in ROWS:
        for name in FILE.findall(row.elsewhere):
            assert (ROOT / name).exists(), (row.row, name)
        assert set(COMMAND.findall(row.elsewhere)) <= set(commands), row.row


def test_designs_added_since_are_a_section_of_their_own():
    assert [row.row for row in ROWS] == list(range(1, len(ROWS) + 1))
    added = [row for row in ROWS if row.is_added]
    assert [row.row for row in added] == list(range(LISTED + 1, len(ROWS) + 1))
    assert all(row.operators for row in added)
