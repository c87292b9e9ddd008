"""A profile is measured once, completed for what a space lacks, and goes on where it was killed."""

import pytest

from predictors import profiling
from predictors.lookup import OperatorTable, Sums
from predictors.operator_grid import settings
from predictors.profiling import CRASHED, local_profile, local_profile_folder
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
    assert "operator settings" in said

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
