"""A profile is measured once, completed for what a space lacks, and goes on where it was killed."""

from dataclasses import replace

import pytest

from predictors import profiling
from predictors.lookup import MIN_NETWORKS, OperatorTable, Sums
from predictors.operator_grid import settings
from predictors.profiling import CRASHED, local_profile, local_profile_folder
from searchspace.cost import cost
from searchspace.load import resolve
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload

WORKLOAD = Workload(seq_len=4)


def space(name, *mixers):
    return resolve(
        {
            "name": name,
            "task": "causal_lm",
            "data": "plays",
            "d_model": 40,
            "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 64},
            "head": {"op": "lm_head", "vocab_size": 256},
            "stages": [{"num_blocks": 1}],
            "blocks": {"mixer": [*mixers], "norm": "rmsnorm"},
        }
    )


POOLING = space("pooling", {"op": "pooling", "window": [3, 5, 7]})
MANY = space(
    "many",
    {"op": "pooling", "window": [*range(3, 25, 2)]},
    {"op": "short_conv", "window": [3, 4, 5, 6]},
)
CONVOLUTION = space("convolution", {"op": "short_conv", "window": [3, 4]})


def test_a_profile_is_measured_once_and_completed_by_the_next_space(tmp_path):
    said = []

    def profiled(of, **more):
        return local_profile(
            of,
            WORKLOAD,
            tmp_path,
            seconds_budget=1.0,
            on_progress=lambda done, total, text: said.append(text),
            **more,
        )

    first = profiled(POOLING)
    assert {row.subject for row in first.operators} == {s.key for s in settings(POOLING)} == set(first.work)
    assert len(first.networks) == 3  # the space has no more
    assert any(text.startswith("operator settings") for text in said)

    said.clear()
    again = profiled(POOLING)
    assert said == []
    assert [(r.subject, r.value) for r in again.operators] == [(r.subject, r.value) for r in first.operators]

    both = profiled(CONVOLUTION)
    assert both.operators[: len(again.operators)] == again.operators
    assert {s.key for s in settings(CONVOLUTION)} <= {row.subject for row in both.operators}
    assert len(list(tmp_path.iterdir())) == 1
    # two architectures are too few to fit a correction to
    arch = sample(Encoding(CONVOLUTION), 1, 0, WORKLOAD)[0]
    table = OperatorTable.of_profile(both, "convolution")
    assert table.latency(arch, WORKLOAD).value_ms == pytest.approx(Sums.of(table.sums(arch)[None]).total[0])


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_killed_run_goes_on_and_what_killed_it_twice_is_left_out(tmp_path, monkeypatch, deaths):
    """The first chunk is kept; a setting in which the process ended once is tried again."""
    measure, fatal = profiling.measure_settings, settings(POOLING)[3]

    def dies(chunk, *rest, on_setting, **more):
        if fatal not in chunk:
            return measure(chunk, *rest, on_setting=on_setting, **more)
        on_setting(fatal)
        raise SystemExit  # nothing after this is run, as in a process that is killed

    monkeypatch.setattr(profiling, "CHUNK", 2)
    monkeypatch.setattr(profiling, "measure_settings", dies)
    for _ in range(deaths):
        with pytest.raises(SystemExit):
            local_profile(POOLING, WORKLOAD, tmp_path, seconds_budget=1.0)
    monkeypatch.setattr(profiling, "measure_settings", measure)
    kept = profiling.DeviceProfile.load(local_profile_folder(WORKLOAD, tmp_path))
    assert [row.subject for row in kept.operators] == [s.key for s in settings(POOLING)[:2]]
    found = local_profile(POOLING, WORKLOAD, tmp_path, seconds_budget=1.0)
    assert found.operators[:2] == kept.operators
    left_out = {fatal.key} if deaths == 2 else set()
    assert found.failures == dict.fromkeys(left_out, CRASHED)
    assert {row.subject for row in found.operators} == {s.key for s in settings(POOLING)} - left_out


def test_calibration_networks_are_as_many_as_their_work_fits_the_seconds():
    """Counted, not timed: the calls that each needs at least, by its FLOPs."""
    archs = list(profiling.calibration_architectures(MANY, WORKLOAD, 12).values())
    large = Workload(seq_len=4, batch_size=100_000)
    each = [profiling.seconds_of_call(cost(arch, large).flops, "cpu") for arch in archs]
    assert min(each) > profiling.SECONDS_OF_SAMPLE
    for count in (5, 9):
        seconds = profiling.LEAST_CALLS * sum(each[:count]) * 1.0001
        found = profiling.wanted_networks(MANY, large, 12, seconds, "cpu")
        assert [a.id for a in found] == [a.id for a in archs[:count]]
    assert len(profiling.wanted_networks(MANY, large, 12, 0.0, "cpu")) == MIN_NETWORKS
    assert len(profiling.wanted_networks(MANY, WORKLOAD, 12, 1.0, "cpu")) == 12


def test_of_slow_operators_fewer_settings_are_measured():
    """Of each operator at least one with each of its values; others only where there is time for their work."""
    profile = profiling.empty_profile(WORKLOAD, "cpu", 1)
    large = replace(profile, workload=Workload(seq_len=4, batch_size=10_000_000))
    fast = profiling._missing_settings(MANY, profile, 5.0, "cpu")
    slow = profiling._missing_settings(MANY, large, 5.0, "cpu")
    assert len(fast) == len(settings(MANY)) >= len(slow)
    for op in ("pooling", "short_conv"):
        windows = [{s.spec["window"] for s in found if s.spec.op == op} for found in (fast, slow)]
        assert windows[0] == windows[1]


def test_networks_that_are_timed_together_fit_into_memory(monkeypatch):
    archs = list(profiling.calibration_architectures(MANY, WORKLOAD, 6).values())
    sizes = [cost(arch, WORKLOAD).parameters for arch in archs]
    monkeypatch.setattr(profiling, "GROUP_PARAMETERS", 2.5 * max(sizes))
    groups = list(profiling._groups(archs, WORKLOAD))
    assert [a for group in groups for a in group] == archs
    assert len(groups) > 1
    assert all(sum(cost(a, WORKLOAD).parameters for a in g) <= 2.5 * max(sizes) for g in groups)
