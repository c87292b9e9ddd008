"""Counted FLOPs are those that torch counts: matrix products and attention, a masked one in full."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from searchspace.cost import cost, projection_flops
from searchspace.model import Model
from searchspace.spec.workload import Workload
from tests.contracts import cases
from tests.contracts.cases import Case


@pytest.mark.parametrize("case", cases.quick("mixer", "ffn", "norm", "projection", "head", "transition"))
def test_flops_of_a_sequence_are_those_that_torch_counts(case: Case):
    module = case.on_meta()
    for T in cases.lengths(case):
        x, facts = torch.empty(1, T, cases.D, device="meta"), cases.tokens(case, T, device="meta")
        with FlopCounterMode(display=False) as counter:
            cases.run(case, module, x, facts)
        projected = 0 if case.entry.counts_projections else projection_flops(module, T)
        own = 0 if case.slot == "projection" else projected
        assert case.entry.flops(module, T, T) + own == counter.get_total_flops()


@pytest.mark.parametrize("case", cases.quick("mixer", causal=True))
def test_flops_of_a_decoding_step_are_those_that_torch_counts(case: Case):
    module: Any = case.on_meta()
    meta = torch.device("meta")
    for n in (1, 14, 15, 16, 17, 40, 80):  # tokens before, around the windows
        prompt, facts = torch.empty(1, n, cases.D, device=meta), cases.tokens(case, n, device="meta")
        _, state = module(prompt, facts, module.init_state(1, meta, prompt.dtype))
        with FlopCounterMode(display=False) as counter:
            module(prompt[:, :1], cases.tokens(case, 1, device="meta"), state)
        assert case.entry.flops(module, 1, n + 1) + projection_flops(module, 1) == counter.get_total_flops()


@pytest.mark.parametrize("case", cases.quick())
def test_flops_of_a_network_are_those_that_torch_counts(case: Case):
    arch = cases.network(case)
    T = 20 if arch.is_causal else 64  # only a decoder runs on less than its longest sequence
    inputs = cases.network_inputs(arch, T, batch_size=3).to("meta")
    with torch.device("meta"):
        model = Model(arch)
    with FlopCounterMode(display=False) as counter:
        model(inputs)
    assert cost(arch, Workload(batch_size=3, seq_len=T)).flops == counter.get_total_flops()
