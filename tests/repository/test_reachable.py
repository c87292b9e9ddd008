"""Every module of the library serves a command, the service, a worker or a public function, or is listed with why not;
and every function and class of a module serves that module or another one of the library.

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
BY_NAME = ("searchspace.contracts", "studies.migrations")  # their functions are collected from each file
ALLOWED = {
    "searchspace.listing": "a command of its own, python -m searchspace.listing, which writes operators.json",
}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def known(name: str) -> str:
    """The module that a dotted name is or lies in; empty for another package's."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def imported(module: str) -> Iterator[str]:
    for node in ast.walk(tree(module)):
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


def defined(module: str) -> dict[str, ast.stmt]:
    """Functions and classes of a module by name, without those that a decorator hands on and those Python calls."""
    found = (
        s for s in tree(module).body if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    )
    return {s.name: s for s in found if not s.name.startswith("__") and (is_class(s) or not s.decorator_list)}


def is_class(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ClassDef)


def uses(module: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what a module uses outside its definition; ("", name) where a string names it."""
    aliases: dict[str, str] = {}
    own = defined(module)
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if f"{node.module}.{alias.name}" in modules():
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                else:
                    yield node.module, alias.name
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("importlib.import_module("):
            aliases[ast.unparse(node.targets[0])] = ast.unparse(node.value).split("(")[1].strip("')")
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Name) and node.id in own:
            here = own[node.id]
            if not here.lineno <= node.lineno <= (here.end_lineno or 0):
                yield module, node.id
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases
        ):
            yield aliases[node.value.id], node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (("", name) for name in re.findall(r"(?:^|:)(\w+)$", node.value))


def test_every_module_is_reached_or_says_why_not():
    left = {m for m in modules().keys() - reached() if modules()[m].read_text(encoding="utf-8").strip()}
    assert left <= ALLOWED.keys(), f"nothing reaches {', '.join(sorted(left - ALLOWED.keys()))}"


def test_every_function_serves_more_than_tests():
    used = {use for module in modules() for use in uses(module)}
    left = [
        f"{module}:{name}"
        for module in modules()
        if not module.startswith(BY_NAME)
        for name in defined(module)
        if (module, name) not in used and ("", name) not in used
    ]
    assert not left, f"nothing but tests uses {', '.join(left)}"


def test_a_name_in_a_string_reaches_its_module():
    assert list(named("nas.setup.preparation", "nas.evaluation.judge:build")) == ["nas.evaluation.judge"]
    assert "searchspace.kernels.norms" in named("searchspace.kernels.dispatch", "norms:rms_norm")
    assert list(named("nas.setup.preparation", "norms")) == []
