"""Check that tests fail if an operator's defining term is replaced: `make mutations`, `python -m tests.mutations X`.

A test file of an operator names its defining term:

    DEFINING_TERM = ("text in the operator's file", "replacement")
    DEFINING_TERM = ("text", "replacement", "searchspace/primitives/file.py")        if the term is in another file

The term is replaced in a copy of the project; then the operator's own tests or its contracts must fail. A term that an
option adds to an operator or a block is named in the test file that must notice its replacement:

    FURTHER_TERMS = (("text", "replacement", "searchspace/model.py"), ...)
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from searchspace import registry

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "searchspace" / "ops"
TIMEOUT = "1800"  # seconds per test; long, since a timeout on a busy machine would count as a failure
NO_TESTS = 5  # pytest's exit status if -k selects no tests: an operator without its own contracts
COPIED = ("searchspace", "proxies", "predictors", "studies", "nas", "tests", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Mutation:
    """One replacement in one file; the test file `test` or, if `has_contracts`, the contracts must notice it."""

    name: str
    path: str
    term: str
    instead: str
    test: str
    has_contracts: bool


def mutations() -> Iterator[Mutation | str]:
    """For each operator a mutation, or a sentence that says why there is none; then those of FURTHER_TERMS."""
    for (slot, name), _ in sorted(registry.operators().items()):
        if name == "none":
            continue
        test = TESTS / f"test_{name}.py"
        found = _named(test, "DEFINING_TERM") if test.is_file() else ()
        if not found:
            yield f"{slot} {name}: {test.relative_to(ROOT)} has no DEFINING_TERM"
            continue
        term, instead, *elsewhere = found[0]
        home = registry.module_of(slot, name).replace(".", "/") + ".py"
        path = elsewhere[0] if elsewhere else home
        yield _mutation(name, path, term, instead, test, has_contracts=True)
    for test in sorted(TESTS.parent.rglob("test_*.py")):
        for term, instead, path in _named(test, "FURTHER_TERMS"):
            yield _mutation(test.stem.removeprefix("test_"), path, term, instead, test, has_contracts=False)


def _mutation(
    name: str, path: str, term: str, instead: str, test: Path, has_contracts: bool
) -> Mutation | str:
    where = str(test.relative_to(ROOT))
    if term not in (ROOT / path).read_text(encoding="utf-8"):
        return f"{where}: {path} does not contain the term {term!r}"
    return Mutation(name, path, term, instead, where, has_contracts)


def _named(test: Path, name: str) -> tuple[tuple[str, ...], ...]:
    """The terms in a test file's DEFINING_TERM (one) or FURTHER_TERMS; empty if it has none."""
    text = test.read_text(encoding="utf-8")
    for node in ast.parse(text).body if name in text else ():
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == name for t in node.targets):
            found = tuple(ast.literal_eval(node.value))
            return (found,) if name == "DEFINING_TERM" else found
    return ()


def survives(mutation: Mutation, copy: Path) -> bool:
    """Whether no test fails with the mutation in the project's copy, which is restored afterwards."""
    file = copy / mutation.path
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutation.term, mutation.instead), encoding="utf-8")
    try:
        if not _passes(copy, mutation.test):
            return False
        return not mutation.has_contracts or _passes(copy, "tests/contracts", "-k", f"-{mutation.name}")
    finally:
        file.write_text(text, encoding="utf-8")


def _passes(copy: Path, *what: str) -> bool:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", "--timeout", TIMEOUT]
    command = [sys.executable, "-m", "pytest", *options, *what]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
    return done.returncode in (0, NO_TESTS)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("names", nargs="*", help="operators; default all")
    options.add_argument("--jobs", type=int, default=2)
    chosen = options.parse_args()
    found = [
        m
        for m in mutations()
        if not chosen.names or (m.name if isinstance(m, Mutation) else m) in chosen.names
    ]
    bad = [m for m in found if isinstance(m, str)]
    todo = [m for m in found if isinstance(m, Mutation)]
    if todo and not _passes(ROOT, *sorted({m.test for m in todo})):
        print("the tests fail before anything is replaced")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for job in range(chosen.jobs):
            copies.put(_copied(Path(folder) / str(job)))

        def run(mutation: Mutation) -> tuple[Mutation, bool]:
            copy = copies.get()
            try:
                return mutation, survives(mutation, copy)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(chosen.jobs) as pool:
            for mutation, survived in pool.map(run, todo):
                print(
                    f"{'SURVIVES' if survived else 'noticed '}  {mutation.name}: {mutation.term!r}",
                    flush=True,
                )
                if survived:
                    bad.append(f"{mutation.name}: no test notices {mutation.instead!r} for {mutation.term!r}")
    print(f"{len(found) - len(bad)} of {len(found)} defining terms, when removed, turn a test red")
    for sentence in bad:
        print(sentence)
    return 1 if bad else 0


def _copied(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


if __name__ == "__main__":
    sys.exit(main())
