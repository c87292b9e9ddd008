"""Every operator can be pickled: torch.save of a network, copies and other processes stand on it."""

from __future__ import annotations

import pickle

import pytest
import torch

from searchspace import registry
from searchspace.contracts import cases


@pytest.mark.parametrize("slot", registry.SLOTS)
def test_a_pickle_holds_the_same(slot: str) -> None:
    for case in cases.quick(slot):
        if case.rank == 0:
            module = case.build()
            again = pickle.loads(pickle.dumps(module)).state_dict()
            differing = [n for n, tensor in module.state_dict().items() if not torch.equal(tensor, again[n])]
            assert not differing, f"{case}: {differing}"
