"""The READMEs say what the results say, and name only what exists."""

from __future__ import annotations

import re
import tomllib

from searchspace.load import resolve
from tests.repository.commands import TEXT
from tests.repository.readme import MARKED, PAGES, ROOT, TABLES, rendered

LONGEST = 160  # lines of the first page; what is longer goes to the guide
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}


def test_the_tables_are_those_that_the_results_give() -> None:
    assert {name for text in TEXTS.values() for _, name, _ in MARKED.findall(text)} == set(TABLES)
    for text in TEXTS.values():
        assert rendered(text) == text, "run `python -m tests.repository.readme`"


def test_every_file_that_is_linked_exists() -> None:
    for page, text in TEXTS.items():
        for path in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / path).exists(), path


def test_every_section_that_is_linked_exists() -> None:
    for page, text in TEXTS.items():
        for path, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            headings = re.findall(
                r"^#+ (.+)$", (page.parent / path).read_text(encoding="utf-8"), re.MULTILINE
            )
            assert anchor in {h.lower().replace(" ", "-") for h in headings}, (path, anchor)


def test_the_first_page_stays_short() -> None:
    assert TEXTS[ROOT / "README.md"].count("\n") <= LONGEST


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (t for text in TEXTS.values() for t in re.findall(r"\bmake ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_spaces_in_readme_and_guide_load() -> None:
    space, *additions = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    for addition in ("", *additions):
        assert resolve(tomllib.loads(space + addition)).name == "mine"
