"""Operators of one slot share tensors by name, so a name means the same axes and the same role in all of them."""

from collections import defaultdict

import pytest

from searchspace.primitives.axes import declared_tensors
from tests.contracts import cases


@pytest.mark.parametrize("causal", [True, False])
def test_a_tensor_name_has_one_meaning_in_a_slot(causal: bool):
    meanings: dict[tuple[str, str], dict[object, set[str]]] = defaultdict(lambda: defaultdict(set))
    for case in cases.quick("mixer", "ffn", "norm", "transition", causal=causal):
        for name, declared in declared_tensors(case.on_meta()):
            meanings[case.slot, name][declared.names, declared.role].add(case.spec.op)
    clashes = {name: dict(found) for name, found in meanings.items() if len(found) > 1}
    assert not clashes
