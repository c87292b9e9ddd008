"""Operators of one slot share tensors by name, so a name must have the same axes and role in all of them."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract
from searchspace.primitives.axes import declared_tensors

SHARING = ("mixer", "ffn", "norm", "transition")


@contract(*SHARING)
def a_tensor_name_has_one_meaning_in_a_slot(case: Case) -> None:
    for name, declared in declared_tensors(case.on_meta()):
        for meaning, operator in meanings(case.slot, case.causal)[name].items():
            here = (declared.names, declared.role)
            assert meaning == here, f"{name} is {here} here and {meaning} in {operator}"


@cache
def meanings(slot: str, causal: bool) -> dict[str, dict[tuple[object, str], str]]:
    """Return, for every tensor name, its (axes, role) with an operator that uses each."""
    found: dict[str, dict[tuple[object, str], str]] = defaultdict(dict)
    for case in cases.quick(slot, causal=causal):
        for name, declared in declared_tensors(case.on_meta()):
            found[name].setdefault((declared.names, declared.role), case.spec.op)
    return found
