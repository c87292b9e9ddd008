"""Operator settings of a space: all that an architecture may run, once each, and what is interpolated between them."""

from dataclasses import replace

import pytest
import torch

from predictors import operator_grid
from predictors.interpolation import PAIR
from predictors.operator_grid import (
    Setting,
    chosen_settings,
    covering,
    measure_settings,
    operator_call,
    operator_row,
    part_settings,
    settings,
)
from searchspace.load import builtin_spaces, load_space, resolve
from searchspace.model import Model, parts
from searchspace.primitives.context import BuildContext
from searchspace.sampling import sample
from searchspace.spec.arch import OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload

WORKLOAD = Workload()


WIDE = {
    "name": "wide",
    "task": "causal_lm",
    "data": "plays",
    "d_model": [32, 48, 64, 96, 128],
    "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 64},
    "head": {"op": "lm_head", "vocab_size": 256},
    "position": ["rope", "learned"],
    "final_norm": ["rmsnorm", "none"],
    "stages": [{"num_blocks": 2, "depth": [1, 2]}],
    "blocks": {
        "mixer": ["softmax_attention", "linear_attention"],
        "ffn": [{"op": "mlp", "d_ff": [64, 96, 128, 192, 256]}, "none"],
        "norm": ["rmsnorm", "layernorm"],
        "projection": ["dense", "low_rank"],
    },
    "operators": {
        "softmax_attention": {
            "normalizer": ["softmax", "sigmoid"],
            "qk_norm": "none",
            "score_bias": "none",
            "temperature": "none",
        }
    },
}


MEASURABLE = [name for name in builtin_spaces() if name != "everything"]  # has 200,000 settings


@pytest.mark.parametrize("space", [*map(load_space, MEASURABLE), resolve(WIDE)], ids=lambda s: s.name)
def test_the_settings_of_a_space_cover_every_part_of_its_architectures(space):
    found = settings(space)
    assert len({s.key for s in found}) == len(set(found)) == len(found)
    assert found == settings(space)
    needed = {
        setting
        for arch in sample(Encoding(space), 200, 0, WORKLOAD)
        for _, slot, spec, context in parts(arch)
        for setting in part_settings(slot, spec, context, arch.position)
    }
    assert needed <= set(found)


def test_what_is_built_for_a_part_is_what_is_counted_for_it():
    for arch in sample(Encoding(load_space("tiny-lm")), 30, 1, WORKLOAD):
        model = Model(arch)
        for name, slot, spec, context in parts(arch):
            found = part_settings(slot, spec, context, arch.position)
            children = len(model.part(name)._modules) if slot == "block" else 1
            assert found.total() == children


def test_measuring_gives_one_row_for_each_setting_and_says_what_it_is_about_to_run():
    wanted = settings(load_space("tiny-lm"))[:4]
    begun: list[Setting] = []
    rows, failures = measure_settings(
        wanted, WORKLOAD, samples=5, seconds=1.0, nominal_ms=2.0, on_setting=begun.append
    )
    assert failures == {}
    assert begun == wanted
    assert [r.subject for r in rows] == [s.key for s in wanted]
    assert all(r.reference == 2.0 and r.value > 0 and r.samples == 5 for r in rows)


def test_a_setting_that_does_not_run_is_named_and_costs_no_other():
    good, other = settings(load_space("tiny-lm"))[:2]
    bad = replace(good, spec=replace(good.spec, op="no_such_stem"))
    rows, failures = measure_settings([good, bad, other], WORKLOAD, samples=5, seconds=1.0)
    assert [r.subject for r in rows] == [good.key, other.key]
    assert "unknown stem 'no_such_stem'" in failures[bad.key]


@pytest.mark.parametrize("phase", ["forward", "prefill", "decode", "train"])
def test_every_operator_of_a_decoder_runs_in_every_phase(phase):
    workload = Workload(phase=phase, seq_len=20, context_len=19)
    calls = [
        operator_call(setting, workload, "cpu")
        for setting in settings(load_space("tiny-lm"))
        if setting.context.d_model == 32
    ]
    with torch.inference_mode():
        for call in calls:
            call()


def test_a_large_pool_is_thinned_to_settings_that_have_every_value():
    found = settings(resolve(WIDE))
    kept = covering(found, 60)
    assert kept == covering(found[::-1], 60)
    assert set(kept) < set(found)
    pairs = [{(s.slot, s.spec.op, *p) for s in some for p in PAIR.findall(s.key)} for some in (kept, found)]
    assert pairs[0] == pairs[1]
    assert chosen_settings(resolve(WIDE), WORKLOAD, len(found)) == found
    assert len(chosen_settings(resolve(WIDE), WORKLOAD, 60)) == len(kept)


def test_a_space_that_is_too_large_to_enumerate_is_known_by_random_architectures(monkeypatch):
    space = load_space("lm-hybrid")
    monkeypatch.setattr(operator_grid, "ENUMERABLE", 10)
    assert operator_grid._num_settings(space) >= 10
    found = chosen_settings(space, WORKLOAD, 80)
    assert set(found) <= set(settings(space))
    assert {(s.slot, s.spec.op) for s in found} == {(s.slot, s.spec.op) for s in settings(space)}


def test_what_an_operator_moves_is_its_weights_state_and_activations():
    context = BuildContext(32)
    row = operator_row(
        Setting("ffn", OpSpec.of("mlp", d_ff=64, activation=OpSpec("gelu")), context), WORKLOAD
    )
    assert row.flops == 2 * 2 * 64 * 32 * 64
    assert row.bytes == 4 * (2 * 32 * 64 + 2 * 64 * 32)
