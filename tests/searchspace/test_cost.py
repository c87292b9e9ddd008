"""Costs of tiny networks, worked out by hand."""

import torch

from searchspace.cost import Cost, cost
from searchspace.model import Model
from searchspace.spec.arch import INACTIVE, OpSpec
from searchspace.spec.workload import Workload
from tests.searchspace.archs import BLOCK, decoder, encoder

D, H, K, G, F, W, T = 8, 2, 4, 1, 16, 11, 10
PROJECTIONS = D * (H * K + 2 * G * K + H * K)
BLOCK_PARAMETERS = PROJECTIONS + 2 * D * F + 2 * D  # two norms
BLOCK_FLOPS = 2 * T * (PROJECTIONS + 2 * D * F) + 4 * T * T * H * K
ENDS = 2 * W * D


def test_a_decoder_by_hand():
    found = cost(decoder(BLOCK, norm=OpSpec("rmsnorm")), Workload("prefill", batch_size=3, seq_len=T))
    parameters = BLOCK_PARAMETERS + ENDS + D
    assert found == Cost(
        parameters=parameters,
        weight_bytes=4 * parameters,
        flops=3 * (BLOCK_FLOPS + 2 * T * W * D),
        state_bytes=3 * 4 * 2 * T * G * K,
        active_parameters=parameters,
        active_weight_bytes=4 * parameters,
    )
    assert found.memory_bytes == found.weight_bytes + found.state_bytes


def test_a_decoding_step_computes_one_token_on_all_keys():
    found = cost(decoder(BLOCK), Workload("decode", context_len=T - 1))
    assert found.flops == 2 * (PROJECTIONS + 2 * D * F) + 4 * T * H * K + 2 * W * D
    assert found.state_bytes == 4 * 2 * T * G * K


def test_a_repeated_stage_is_stored_once_and_computed_each_time():
    once, twice = (cost(decoder(BLOCK, repeats=r), Workload(seq_len=T)) for r in (1, 2))
    assert twice.parameters == once.parameters
    assert twice.flops - once.flops == BLOCK_FLOPS
    assert twice.state_bytes == 2 * once.state_bytes


def test_an_inactive_block_costs_nothing():
    assert cost(decoder(BLOCK, INACTIVE), Workload()) == cost(decoder(BLOCK), Workload())


def test_half_precision_halves_the_bytes():
    full, half = (cost(decoder(BLOCK), Workload(dtype=d)) for d in ("float32", "bfloat16"))
    assert (2 * half.weight_bytes, 2 * half.state_bytes) == (full.weight_bytes, full.state_bytes)


def test_an_encoder_keeps_no_state_and_counts_by_declaration():
    arch = encoder(8, 16)
    with torch.device("meta"):
        model = Model(arch)
    found = cost(arch, Workload())
    assert found.state_bytes == 0
    assert found.parameters == sum(p.numel() for p in model.parameters())
