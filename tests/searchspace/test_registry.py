"""Operators are found by being there; those of other packages by their entry point; a name is never taken twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from searchspace import registry
from searchspace.registry import Operator

OPERATOR = """
from torch import nn
from searchspace.registry import Operator

def build(spec, context):
    raise NotImplementedError

OPERATOR = Operator(name="{name}", slot="ffn", paper="none yet", build=build)
"""
LIST = "import json; from searchspace import registry; print(json.dumps([list(k) for k in registry.operators()]))"


def installed(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Lists the operators in a process that sees a package with an operator of that name."""
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (folder / "my_operators.py").write_text(OPERATOR.format(name=name))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nas.operators]\nmine = my_operators\n")
    path = ":".join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", LIST], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_an_installed_package_adds_operators_by_its_entry_point(tmp_path: Path) -> None:
    done = installed(tmp_path, "mine")
    assert done.returncode == 0, done.stderr
    assert ["ffn", "mine"] in json.loads(done.stdout)


def test_an_installed_package_cannot_take_a_name_that_exists(tmp_path: Path) -> None:
    done = installed(tmp_path, "mlp")
    assert done.returncode != 0
    assert "two operators of slot 'ffn' are named 'mlp'" in done.stderr


def test_an_unknown_operator_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown ffn 'mlpp'; .*known: "):
        registry.operator("ffn", "mlpp")


def test_an_unknown_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown slot 'nowhere'"):
        Operator(name="x", slot="nowhere", paper="", build=lambda: None)  # type: ignore[arg-type, return-value]


def test_every_entry_says_in_which_file_it_stands() -> None:
    assert registry.module_of("ffn", "mlp") == "searchspace.ops.ffn.mlp"
    for (slot, name), _ in registry.operators().items():
        if name != "none":
            assert registry.module_of(slot, name).rsplit(".", 1)[-1] == name
