"""A profile is measured once, completed for what a space lacks, and otherwise reused."""

from predictors.lookup import OperatorTable
from predictors.operator_grid import settings
from predictors.profiling import NUM_NETWORKS, local_profile
from searchspace.load import load_space, resolve
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload

WORKLOAD = Workload(seq_len=4)
ONLY_ONE = {
    "name": "only-one",
    "task": "causal_lm",
    "data": "plays",
    "d_model": 40,
    "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": 64},
    "head": {"op": "lm_head", "vocab_size": 256},
    "stages": [{"num_blocks": 1}],
    "blocks": {"mixer": {"op": "pooling", "window": 3}},
}


def test_a_profile_is_measured_once_and_completed_by_the_next_space(tmp_path):
    said: list[str] = []
    space = load_space("tiny-lm")
    first = local_profile(
        space, WORKLOAD, tmp_path, seconds_budget=1.0, on_progress=lambda done, of, text: said.append(text)
    )
    assert {row.subject for row in first.operators} == {s.key for s in settings(space)}
    assert len(first.networks) == NUM_NETWORKS
    num_interpolated = sum(row.samples == 0 for row in first.operators)
    assert any(
        f"{len(first.operators)} operator settings added, {num_interpolated} of " in text for text in said
    )

    said.clear()
    again = local_profile(space, WORKLOAD, tmp_path, on_progress=lambda done, of, text: said.append(text))
    assert said == []
    assert [(r.subject, r.value) for r in again.operators] == [(r.subject, r.value) for r in first.operators]

    only_one = resolve(ONLY_ONE)
    both = local_profile(only_one, WORKLOAD, tmp_path, seconds_budget=1.0)
    assert both.operators[: len(again.operators)] == again.operators
    assert {s.key for s in settings(only_one)} <= {row.subject for row in both.operators}
    assert len(list(tmp_path.iterdir())) == 1
    # one architecture is too few to fit a correction to
    arch = sample(Encoding(only_one), 1, 0, WORKLOAD)[0]
    table = OperatorTable.of_profile(both, "only-one")
    assert table.latency(arch, WORKLOAD).value_ms == table.features(arch)[0]
