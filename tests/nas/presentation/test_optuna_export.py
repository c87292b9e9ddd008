"""An exported study as Optuna itself reads it."""

from __future__ import annotations

import multiprocessing
import resource
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from nas.errors import UsageError
from nas.presentation import optuna_export
from nas.presentation.optuna_export import write_optuna
from studies.export import decisions
from studies.pareto import front
from tests.studies.test_export import ENCODING, STUDY, TRIALS


def test_optuna_reads_decisions_values_and_front(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    dated = replace(
        TRIALS[0], started_at="2025-01-01T10:00:00+00:00", finished_at="2025-01-01T10:00:02+00:00"
    )
    trials = [dated, *TRIALS[1:], replace(TRIALS[0], number=6, state="running", values={})]
    write_optuna(path, STUDY, trials)
    found = optuna.load_study(study_name="s", storage=f"sqlite:///{path}")
    assert [d.name for d in found.directions] == ["MINIMIZE", "MINIMIZE"]
    assert found.metric_names == ["loss", "cost"]
    assert [t.state.name for t in found.trials] == ["COMPLETE"] * 4 + ["FAIL"] * 2
    for made, trial in zip(found.trials, TRIALS, strict=True):
        assert made.params == {n: v for n, v in decisions(ENCODING, trial).items() if v is not None}
        assert made.user_attrs["arch_id"] == trial.arch_id
        if trial.state == "complete":
            assert made.values == [trial.values["loss"], trial.values["cost"]]
    assert found.trials[5].user_attrs["error"] == "out, of memory"
    assert found.trials[0].duration is not None
    assert found.trials[0].duration.total_seconds() == 2
    best = {t.number for t in front(TRIALS, STUDY.objectives)}
    assert {t.user_attrs["trial"] for t in found.best_trials} == best


def test_infeasible_trials_that_have_their_values_are_marked_by_their_violations(tmp_path: Path) -> None:
    missed = replace(TRIALS[0], state="infeasible", violations={"cost": 0.5})
    write_optuna(tmp_path / "o.db", STUDY, [missed, *TRIALS[1:4]])
    found = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/o.db")
    assert found.trials[0].constraints == {"cost": 0.5}
    assert 0 not in {t.number for t in found.best_trials}


def test_a_study_too_large_for_the_dashboard_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_export, "MAX_TRIALS", 3)
    with pytest.raises(UsageError, match=r"study 's' has 6 trials, .* at most 3; use csv"):
        write_optuna(tmp_path / "o.db", STUDY, TRIALS)


def test_a_file_without_room_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """In a process of its own: other threads of this one may be writing, too."""
    child = multiprocessing.get_context("spawn").Process(
        target=_write_where_no_room_is, args=(tmp_path / "o.db",)
    )
    child.start()
    child.join()
    assert child.exitcode == 0


def _write_where_no_room_is(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))  # what a full disk does to SQLite
    with pytest.raises(OSError, match="disk"):
        write_optuna(path, STUDY, TRIALS)
