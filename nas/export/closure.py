"""The import closure of one network: exactly the source files that are needed to rebuild it.

An extracted folder has its own copy of the model code in the folder `network`, so that it runs with only torch,
independently of this project. The copies import each other relatively, so the package works under any name and two
folders can be loaded in one process.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from nas.errors import ArtifactError
from searchspace import registry
from searchspace.model import parts
from searchspace.registry import Nested
from searchspace.spec.arch import DENSE, ArchSpec, BlockSpec, OpSpec

PACKAGE = "searchspace"
VENDORED = "network"
IMPORT = re.compile(rf"^( *from ){PACKAGE}\.?(\S*)(?= import )", re.MULTILINE)


def modules_of(arch: ArchSpec) -> list[str]:
    """Sorted names of all modules of `searchspace` that building and running `arch` imports.

    Raises ArtifactError for an operator of another package.
    """
    todo = ["searchspace.model", *_operator_modules(arch)]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [m for m in _imports(_source(name)) if m.split(".")[0] == PACKAGE]
    return sorted(found)


def foreign_imports(modules: Iterable[str]) -> set[str]:
    """Top-level packages outside the standard library that the given modules import."""
    found = {name.split(".")[0] for module in modules for name in _imports(_source(module))}
    return found - set(sys.stdlib_module_names) - {PACKAGE}


def vendor(arch: ArchSpec, folder: Path) -> list[Path]:
    """Copy the closure of `arch` to `folder/network`; returns the files written."""
    written = []
    for module in modules_of(arch):
        path = folder / VENDORED / Path(*module.split(".")[1:]).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        dots = "." * module.count(".")
        text = IMPORT.sub(rf"\g<1>{dots}\g<2>", _source(module).read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
        written.append(path)
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()
    return written


def _operator_modules(arch: ArchSpec) -> set[str]:
    found: set[str] = set()

    def add(slot: str, spec: OpSpec) -> None:
        entry = registry.operator(slot, spec.op)
        module = registry.module_of(slot, spec.op)
        if module.split(".")[0] != PACKAGE:
            raise ArtifactError(
                f"{slot} {spec.op} comes from {module}: only this project's operators can be copied to a folder"
            )
        found.add(module)
        for name, domain in entry.choices.items():
            if isinstance(domain, Nested):
                add(domain.slot, spec[name])

    add("projection", DENSE)  # the default of stem, transition and head
    add("transition", OpSpec("none"))
    for _, slot, spec, _ in parts(arch):
        if isinstance(spec, BlockSpec):
            for name in ("mixer", "ffn", "norm", "projection"):
                add(name, getattr(spec, name))
        else:
            add(slot, spec)
    return found


def _source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return Path(spec.origin)


def _imports(source: Path) -> list[str]:
    """Absolute names of the modules that a file imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if _is_module(name) else node.module for name in names]
    return found


def _is_module(name: str) -> bool:
    if name.split(".")[0] != PACKAGE:
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
