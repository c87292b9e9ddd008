"""Operator settings of a space: all that an architecture may run, once each, and what is interpolated between them."""

from dataclasses import replace

import pytest
import torch

from predictors.lookup import OperatorTable
from predictors.operator_grid import (
    interpolated,
    measure_settings,
    operator_call,
    part_settings,
    settings,
    thinned,
)
from searchspace.load import builtin_spaces, load_space, resolve
from searchspace.model import Model, parts
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload

WORKLOAD = Workload()


def row(subject, value):
    return Measurement(
        subject,
        "latency",
        value,
        "ms",
        WORKLOAD,
        "a device",
        "eager",
        "by hand",
        "a software",
        "today",
        samples=9,
    )


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


def test_measuring_gives_one_row_for_each_setting_and_reuses_what_is_known():
    wanted = settings(load_space("tiny-lm"))[:4]
    known = [row(wanted[0].key, 0.25)]
    rows, failures = measure_settings(
        wanted, WORKLOAD, samples=5, seconds_budget=1.0, known=known, nominal_ms=2.0
    )
    assert failures == {}
    assert [r.subject for r in rows] == [s.key for s in wanted]
    assert rows[0] is known[0]
    assert all(r.reference == 2.0 and r.value > 0 and r.samples == 5 for r in rows[1:])


def test_a_setting_that_does_not_run_is_named_and_costs_no_other():
    good, other = settings(load_space("tiny-lm"))[:2]
    bad = replace(good, spec=replace(good.spec, op="no_such_stem"))
    rows, failures = measure_settings([good, bad, other], WORKLOAD, samples=5, seconds_budget=1.0)
    assert [r.subject for r in rows] == [good.key, other.key]
    assert "unknown stem 'no_such_stem'" in failures[bad.key]


@pytest.mark.parametrize("phase", ["forward", "prefill", "decode"])
def test_every_operator_of_a_decoder_runs_in_every_phase(phase):
    workload = Workload(phase=phase, seq_len=20, context_len=19)
    with torch.inference_mode():
        for setting in settings(load_space("tiny-lm")):
            if setting.context.d_model == 32:
                operator_call(setting, workload, "cpu")()


def test_training_is_refused():
    with pytest.raises(ValueError, match="phases forward, prefill and decode, got train"):
        operator_call(settings(load_space("tiny-lm"))[0], Workload(phase="train"), "cpu")


def test_a_grid_that_is_too_large_keeps_the_ends_and_the_middle_of_every_size():
    found = settings(resolve(WIDE))
    assert thinned(found, len(found)) == found
    middle, ends = thinned(found, len(found) - 1), thinned(found, 10)

    def widths(kept):
        mlps = [s for s in kept if s.spec.op == "mlp"]
        return {s.context.d_model for s in mlps}, {s.spec["d_ff"] for s in mlps}

    assert widths(middle) == ({32, 64, 128}, {64, 128, 256})
    assert widths(ends) == ({32, 128}, {64, 256})
    windows = {s.spec["window"] for s in ends if s.spec.op == "softmax_attention"}
    assert windows == {0, 16, 64}
    assert {s.spec.op for s in ends} == {s.spec.op for s in found}


def test_a_latency_that_is_linear_in_work_is_interpolated_exactly():
    everything = [
        s for s in settings(resolve(WIDE)) if s.spec.op == "mlp" and s.context.projection.op == "dense"
    ]
    kept = thinned(everything, 1)

    def work(s):  # up and down projections, a multiply-add counted as 2, and one for each activation
        return 64 * s.context.d_model * (4 * s.spec["d_ff"] + 1)

    rows = {s.key: row(s.key, 1e-6 * work(s)) for s in kept}
    left = [s for s in everything if s.key not in rows]
    found = interpolated(left, everything, rows, WORKLOAD)
    assert [r.subject for r in found] == [s.key for s in left]
    assert [r.value for r in found] == pytest.approx([1e-6 * work(s) for s in left], rel=1e-5)  # six digits
    assert {(r.samples, r.method) for r in found} == {(0, "interpolated")}
    again = interpolated(left[:1], everything, {r.subject: r for r in found}, WORKLOAD)
    assert again == []  # an interpolated row supports no other
    OperatorTable([*rows.values(), *found], WORKLOAD)


def test_a_space_with_far_too_many_settings_is_refused_with_a_sentence():
    wanted = settings(load_space("tiny-lm"))
    with pytest.raises(ValueError, match="narrow its choices, or leave latency out of the objectives"):
        measure_settings(wanted, WORKLOAD, seconds_budget=0.01)
