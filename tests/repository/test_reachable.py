"""Every module of the library serves a command, the service, a worker or a public function, or is listed with why not.

Read from the sources: imports anywhere in a file, modules named in strings, and folders of which each file is loaded.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("nas", "searchspace", "proxies", "predictors", "studies")
STARTS = ("nas", "nas.cli.main", "nas.service", "nas.workers")
FOLDERS = {  # loaded file by file, by whom
    "nas.cli.parsers": "nas.cli.main",
    "nas.export.templates": "nas.export.folder",  # written into the folders that it makes
    "nas.searchers": "nas.searchers.registry",
    "proxies": "proxies.registry",
    "searchspace.ops": "searchspace.registry",
    "studies.migrations": "studies.store",
}
ALLOWED = {
    "searchspace.listing": "a command of its own, python -m searchspace.listing, which writes operators.json",
    "searchspace.sequence_parallel": "for a program with processes of its own: no command puts one sequence on several",
    "searchspace.quantization.integer_network": "a simulation that `make bench` judges: it has no speed to offer",
    "searchspace.quantization.integer_only": "the arithmetic of integer_network",
}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def known(name: str) -> str:
    """The module that a dotted name is or lies in; empty for another package's."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def imported(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (known(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (known(f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from named(module, node.value)


def named(module: str, text: str) -> Iterator[str]:
    """`package.module`, or `module:function` of a whole name, of the folder of this file or of the commands."""
    match = re.fullmatch(r"([\w.]+)(:\w+)?", text)
    if match is None:
        return
    name, function = match[1], match[2]
    places = (name, f"{module.rpartition('.')[0]}.{name}", f"nas.cli.{name}") if function else (name,)
    yield from (place for place in places if "." in place and place in modules())


def reached() -> set[str]:
    waiting = [m for m in modules() if m in STARTS or m.startswith(tuple(f"{s}." for s in STARTS[2:]))]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in found or not module:
            continue
        found.add(module)
        waiting += imported(module)
        folders = [folder for folder, by in FOLDERS.items() if by == module]
        waiting += [m for m in modules() if m.startswith(tuple(f"{f}." for f in folders))]
    return found


def test_every_module_is_reached_or_says_why_not():
    left = {m for m in modules().keys() - reached() if modules()[m].read_text(encoding="utf-8").strip()}
    assert left <= ALLOWED.keys(), f"nothing reaches {', '.join(sorted(left - ALLOWED.keys()))}"


def test_a_name_in_a_string_reaches_its_module():
    assert list(named("nas.setup.preparation", "nas.evaluation.judge:build")) == ["nas.evaluation.judge"]
    assert "searchspace.kernels.norms" in named("searchspace.kernels.dispatch", "norms:rms_norm")
    assert list(named("nas.setup.preparation", "norms")) == []
