"""What answers a design is something that a user reaches, or the word that it is not built."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from nas.cli.main import parser
from searchspace import registry
from searchspace.catalogue import LISTED, Row, rows
from searchspace.load import designs

ROOT = Path(__file__).parents[2]
ROWS = rows()
NOT_BUILT = (
    "nothing to build",
    "no architecture",
    "nothing that differs per layer",
    "not built",
    "no task here",
)
FUNCTION = re.compile(r"(?:searchspace|nas)(?:\.\w+)+")
OPTION = re.compile(r"--[a-z-]+(?: \w+)?")
TABLES = ("[blocks.quant]", "[[stages]]", "repeats", "depth", "state", "placement", "mixer")
FILE = re.compile(r"\b(?:searchspace|nas|proxies|predictors|studies|tests)/[\w/.-]*\w")
COMMAND = re.compile(r"`nas ([a-z]+)")
QUOTED = re.compile(r"`[^`]*`")
WORD_OF_PLANNING = re.compile(r"\b[A-Z]{5,}\b|\bTODO\b")


def reached_by(row: Row) -> list[str]:
    """Operators, and what stands between backquotes: commands and their options, settings of a space, functions."""
    quoted = [words.strip("`") for words in QUOTED.findall(row.elsewhere)]
    reached = [words for words in quoted if words.startswith("nas ") or OPTION.fullmatch(words)]
    reached += [words for words in quoted if FUNCTION.fullmatch(words) and _is_there(words)]
    settings = {n for entry in registry.operators().values() for n in entry.items} | set(TABLES)
    reached += [words for words in quoted if words.partition(" = ")[0] in settings]
    return [*(name for _, name, _ in row.operators), *reached]


def _is_there(path: str) -> bool:
    module, _, name = path.rpartition(".")
    return hasattr(import_module(module), name)


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
    assert all(row.operators or "`nas spaces check" in row.elsewhere for row in added)


def test_every_published_design_is_a_row_and_the_other_way_round():
    checked = [re.search(r"`nas spaces check ([\w-]+)`", row.elsewhere) for row in ROWS if row.is_added]
    assert sorted(found[1] for found in checked if found) == designs()
