"""Counted FLOPs equal those that torch counts for matrix products and attention, where masked attention is full."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract
from searchspace.cost import cost, projection_flops
from searchspace.model import Model
from searchspace.spec.workload import Workload

META = torch.device("meta")


def assert_counted(said: int, counter: FlopCounterMode, what: str) -> None:
    counted = counter.get_total_flops()
    assert said == counted, f"flops says {said} for {what}, torch counts {counted}"


@contract("mixer", "ffn", "norm", "projection", "head", "transition")
def flops_of_a_sequence_are_those_that_torch_counts(case: Case) -> None:
    module = case.on_meta()
    for T in cases.lengths(case):
        x, facts = torch.empty(1, T, cases.D, device=META), cases.tokens(case, T, device="meta")
        with FlopCounterMode(display=False) as counter:
            cases.run(case, module, x, facts)
        added = not case.entry.counts_projections and case.slot != "projection"
        projected = projection_flops(module, T) if added else 0
        assert_counted(case.entry.flops(module, T, T) + projected, counter, f"{T} tokens")


@contract("mixer", causal=True)
def flops_of_a_decoding_step_are_those_that_torch_counts(case: Case) -> None:
    module: Any = case.on_meta()
    for n in (1, 14, 15, 16, 17, 40, 80):  # numbers of earlier tokens around the window sizes
        prompt, facts = torch.empty(1, n, cases.D, device=META), cases.tokens(case, n, device="meta")
        _, state = module(prompt, facts, module.init_state(1, META, prompt.dtype))
        with FlopCounterMode(display=False) as counter:
            module(prompt[:, :1], cases.tokens(case, 1, device="meta"), state)
        said = case.entry.flops(module, 1, n + 1) + projection_flops(module, 1)
        assert_counted(said, counter, f"a step after {n} tokens")


@contract()
def flops_of_a_network_are_those_that_torch_counts(case: Case) -> None:
    arch = cases.network(case)
    T = 20 if arch.is_causal else 64  # only a decoder runs on sequences below the maximum length
    inputs = cases.network_inputs(arch, T, batch_size=3).to(META)
    with META:
        model = Model(arch)
    with FlopCounterMode(display=False) as counter:
        model(inputs)
    assert_counted(cost(arch, Workload(batch_size=3, seq_len=T)).flops, counter, "a network")
