"""The README says what the results say, and names only what exists."""

from __future__ import annotations

import re
import tomllib

from searchspace.load import resolve
from tests.repository.readme import MARKED, ROOT, TABLES, rendered

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_are_those_that_the_results_give() -> None:
    assert {name for _, name, _ in MARKED.findall(TEXT)} == set(TABLES)
    assert rendered(TEXT) == TEXT, "run `python -m tests.repository.readme`"


def test_every_file_that_is_linked_exists() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / path).exists(), path


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_spaces_in_the_readme_load() -> None:
    space, *additions = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    for addition in ("", *additions):
        assert resolve(tomllib.loads(space + addition)).name == "mine"
