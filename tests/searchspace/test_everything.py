"""The space of every causal operator: complete, and every architecture of it builds or is refused with a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from searchspace import registry
from searchspace.cost import cost, on_meta
from searchspace.load import load_space
from searchspace.model import parts
from searchspace.spec.genome import Encoding
from searchspace.spec.space import Slot
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from searchspace.validity import why_invalid

SPACE = load_space("everything")
MADE_BY_FOLDING = {"channel_affine"}


@pytest.mark.parametrize("slot", ["mixer", "ffn", "norm", "projection"])
def test_it_names_every_causal_operator(slot: str) -> None:
    """`python -m searchspace.listing` writes the space again after an operator was added."""
    causal = {name for (where, name), entry in registry.operators().items() if where == slot and entry.causal}
    (stage,) = SPACE.stages
    for block in stage.blocks:
        candidates: Slot = getattr(block, slot)
        assert {c.op for c in candidates.candidates} | {"none"} == (causal - MADE_BY_FOLDING) | {"none"}


def build_or_say_why(count: int, seed: int) -> tuple[int, int]:
    """(built, refused) of random genomes; anything else that happens is raised."""
    encoding = Encoding(SPACE)
    built = refused = 0
    for row in encoding.random(count, np.random.default_rng(seed)).tolist():
        arch = encoding.decode(tuple(row))
        reason = why_invalid(arch)
        if reason is not None:
            assert len(reason.split()) >= 3, reason
            refused += 1
            continue
        for _, slot, spec, context in parts(arch):
            on_meta(slot, spec, context.anywhere)
        assert cost(arch, Workload()).parameters > 0
        built += 1
    return built, refused


@pytest.mark.parametrize(("count", "seed"), [(200, 0), pytest.param(2000, 1, marks=pytest.mark.slow)])
def test_random_architectures_build_or_are_refused_with_a_sentence(count: int, seed: int) -> None:
    built, refused = build_or_say_why(count, seed)
    assert built > 9 * refused


@pytest.mark.slow
def test_gradients_reach_every_shared_tensor_that_is_trained() -> None:
    """Through random architectures until every tensor of a block was reached, or it has to be a dead one."""
    supernet, encoding = Supernet(SPACE), Encoding(SPACE)
    inputs = torch.randint(0, 256, (2, 24))
    for row in encoding.random(480, np.random.default_rng(0)).tolist():
        arch = encoding.decode(tuple(row))
        if why_invalid(arch) is None:
            logits = supernet.forward(arch, inputs)
            assert logits.isfinite().all(), arch
            logits.square().mean().backward()
    reached = {n for n, t in supernet.tensors.items() if t.grad is not None and t.grad.isfinite().all()}
    trained = {n for n, t in supernet.tensors.items() if t.requires_grad}
    assert len(reached) > 0.8 * len(trained)
