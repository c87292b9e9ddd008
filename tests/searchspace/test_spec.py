"""An architecture is its JSON: read back equal, one id everywhere."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from searchspace.spec.arch import INACTIVE, ArchSpec, BlockSpec, Format, OpSpec, QuantPolicy
from searchspace.spec.space import Choice, Constraint, Slot
from tests.searchspace.archs import BLOCK, decoder, encoder

QUANTISED = replace(BLOCK, quant=QuantPolicy((("up", Format("int8")),), Format("fp8")), placement="peri")
ARCHS = [
    decoder(BLOCK, INACTIVE, QUANTISED, repeats=2),
    encoder(16, 32),
    decoder(BLOCK, norm=OpSpec("rmsnorm")),
]


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.task)
def test_an_architecture_survives_json(arch: ArchSpec):
    again = ArchSpec.from_json(json.loads(json.dumps(arch.to_json())))
    assert again == arch
    assert (again.id, again.canonical) == (arch.id, arch.canonical)


def test_the_id_is_the_same_in_another_process():
    """Hashes of strings are salted there; ids must not be."""
    code = (
        "import json, sys; from searchspace.spec.arch import ArchSpec;"
        "print(ArchSpec.from_json(json.load(sys.stdin)).id, 'torch' in sys.modules)"
    )
    arch = ARCHS[0]
    given = json.dumps(arch.to_json())
    found = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [arch.id, "False"]


def test_different_architectures_have_different_ids():
    variants = [*ARCHS, decoder(BLOCK), decoder(BLOCK, BLOCK), decoder(QUANTISED), decoder(BLOCK, d_model=16)]
    assert len({a.id for a in variants}) == len(variants)


def test_items_are_equal_in_any_order():
    assert OpSpec.of("mlp", d_ff=16, activation="gelu") == OpSpec.of("mlp", activation="gelu", d_ff=16)


def test_what_can_not_be_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"unknown placement 'under'; known: pre, post, peri"):
        BlockSpec(placement="under")
    with pytest.raises(ValueError, match="unknown number format 'int3'"):
        Format("int3")
    with pytest.raises(ValueError, match="the stages hold 1 blocks, the architecture has 2"):
        replace(decoder(BLOCK), blocks=(BLOCK, BLOCK))
    with pytest.raises(ValueError, match="schema 99 is newer"):
        ArchSpec.from_json(ARCHS[0].to_json() | {"schema": 99})
    with pytest.raises(ValueError, match="at least one value"):
        Choice(())
    with pytest.raises(ValueError, match="each value once"):
        Choice((1, 1))
    with pytest.raises(ValueError, match="at least one candidate"):
        Slot(())
    with pytest.raises(ValueError, match="the bounds on flops contradict: at least 2, at most 1"):
        Constraint("flops", 2, 1)


def test_a_constraint_says_by_how_much_it_is_missed():
    bound = Constraint("flops", 2, 5)
    assert [bound.violation(v) for v in (0, 2, 3, 5, 9)] == [2, 0, 0, 0, 4]
