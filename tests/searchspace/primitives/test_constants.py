"""What is kept of a configuration are numbers: never the stand-ins of a trace, which would end every later run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import searchspace
from searchspace.ops.recurrence.lmu import responses
from searchspace.primitives.constants import kept
from searchspace.primitives.linear import random_directions
from searchspace.primitives.rotary import frequencies

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("make", "key"),
    [(frequencies, (77.0, 6, CPU)), (responses, (3, 7)), (random_directions, (5, 3, CPU, torch.float32))],
)
def test_what_is_made_in_a_trace_is_not_kept(make, key) -> None:
    with FakeTensorMode():
        make(*key)
    found = make(*key)
    for tensor in found if isinstance(found, tuple) else (found,):
        assert not isinstance(tensor, FakeTensor)
        assert tensor.isfinite().all()
    again = make(*key)
    assert again is found


def test_what_is_first_made_while_measuring_can_be_trained_with() -> None:
    make = kept(2)(lambda n: torch.arange(n, dtype=torch.float32))
    with torch.inference_mode():
        made = make(3)
    weight = torch.ones(3, requires_grad=True)
    (weight * made).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, made)


def test_only_the_last_ones_are_kept() -> None:
    make = kept(2)(lambda n: torch.zeros(n))
    first, second = make(1), make(2)
    assert make(2) is second
    make(3)
    assert make(2) is second
    assert make(1) is not first


def test_no_function_that_makes_tensors_keeps_them_otherwise() -> None:
    for path in sorted(Path(searchspace.__path__[0]).rglob("*.py")):
        if "contracts" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                kept_by = {ast.unparse(d).split("(")[0] for d in node.decorator_list}
                makes = {"Tensor", "BlockMask"} & set(
                    ast.unparse(node.returns)
                    .replace("[", " ")
                    .replace(",", " ")
                    .replace("]", " ")
                    .replace(".", " ")
                    .split()
                )
                assert not (makes and kept_by & {"cache", "lru_cache", "cached_property"}), (
                    f"{path}: {node.name}"
                )
