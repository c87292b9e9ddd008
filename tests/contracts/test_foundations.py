"""Tests of what contracts rely on, and of requirements on this project's own operators only."""

import torch

from searchspace.contracts import cases
from searchspace.model import contexts
from searchspace.supernet.slicing import take
from tests.mutations.__main__ import mutations


def test_every_operator_has_tests_that_name_a_term_of_it_to_be_mutated():
    """Each term occurs in the file that is named for it; `python -m tests.mutations` checks that a test notices."""
    assert [found for found in mutations() if isinstance(found, str)] == []


def test_a_part_knows_its_place():
    """Build contexts have the width, layout and depth of each block, also after a transition."""
    case = next(c for c in cases.quick("transition") if c.spec.op == "q_pooling")
    found = contexts(cases.network(case))
    assert (found["blocks.0"].layout.grid, found["blocks.1"].layout.grid) == ((8, 8), (4, 4))
    assert (found["blocks.0"].d_model, found["blocks.1"].d_model) == (cases.D, case.context.d_next)
    assert [found[f"blocks.{i}"].layer for i in (0, 1)] == [0, 1]


def test_a_slice_keeps_a_prefix_of_every_factor():
    shared = torch.arange(2 * 3 * 4 * 5).view(24, 5)
    have = (cases.Axis.of(G=2, R=3, K=4), cases.Axis.of(D=5))
    want = (cases.Axis.of(G=2, R=1, K=2), cases.Axis.of(D=3))
    rows = [g * 12 + k for g in range(2) for k in range(2)]
    assert torch.equal(take(shared, have, want), shared[rows][:, :3])
