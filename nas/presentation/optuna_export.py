"""Writes a study as an Optuna study to a separate file, for `optuna-dashboard sqlite:///FILE`."""

from __future__ import annotations

import errno
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import UsageError
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies.export import decisions, plain
from studies.records import JUDGED, Objective, Study, Trial

MAX_TRIALS = 10_000  # the dashboard sends all trials to the browser at once


def write_optuna(
    path: Path,
    study: Study,
    trials: Sequence[Trial],
    on_trial: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the file: decisions become categorical parameters, and infeasible trials keep values and violations.

    Raises UsageError for more than MAX_TRIALS trials, and OSError if the file can't be written.
    """
    if len(trials) > MAX_TRIALS:
        raise UsageError(
            f"--format optuna: study {study.name!r} has {len(trials):,} trials, optuna-dashboard can show at most "
            f"{MAX_TRIALS:,}; use csv or parquet"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    encoding = Encoding(SpaceSpec.from_json(study.space))
    values = {v.name: CategoricalDistribution([plain(x) for x in v.values]) for v in encoding.variables}
    path.unlink(missing_ok=True)
    with warnings.catch_warnings(), _disk_errors():
        warnings.simplefilter("ignore", ExperimentalWarning)
        made = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name=study.name,
            directions=[StudyDirection[o.direction.upper()] for o in study.objectives],
        )
        made.set_metric_names([o.name for o in study.objectives])
        finished = [t for t in trials if t.is_finished]
        for done, trial in enumerate(finished, 1):
            made.add_trial(_frozen(trial, study.objectives))
            on_trial(done, len(finished))
        decided = [decisions(encoding, trial) for trial in finished]
        _add_parameters(path, [t._trial_id for t in made.get_trials(deepcopy=False)], decided, values)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Convert an exception that is caused by SQLite's OperationalError to an OSError."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, sqlite3.OperationalError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise OSError(errno.EIO, str(cause)) from error


def _add_parameters(
    path: Path,
    trial_ids: Sequence[int],
    decided: Sequence[dict[str, Any]],
    values: dict[str, CategoricalDistribution],
) -> None:
    """Insert the parameters of all trials at once; `add_trial` needs several queries for each, hours in total."""
    kinds = {name: distribution_to_json(distribution) for name, distribution in values.items()}
    rows = (
        (trial_id, name, values[name].to_internal_repr(value), kinds[name])
        for trial_id, trial in zip(trial_ids, decided, strict=True)
        for name, value in trial.items()
        if value is not None
    )
    columns = "trial_id, param_name, param_value, distribution_json"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(f"INSERT INTO trial_params ({columns}) VALUES (?, ?, ?, ?)", rows)


def _frozen(trial: Trial, objectives: Sequence[Objective]) -> FrozenTrial:
    has_all = trial.state in JUDGED and all(o.name in trial.values for o in objectives)
    frozen = optuna.trial.create_trial(
        state=TrialState.COMPLETE if has_all else TrialState.FAIL,
        values=[trial.values[o.name] for o in objectives] if has_all else None,
        constraints=trial.violations,
        user_attrs={"trial": trial.number, "arch_id": trial.arch_id}
        | ({"error": trial.error} if trial.error else {}),
    )
    if trial.started_at and trial.finished_at:
        frozen.datetime_start = datetime.fromisoformat(trial.started_at).replace(tzinfo=None)
        frozen.datetime_complete = datetime.fromisoformat(trial.finished_at).replace(tzinfo=None)
    return frozen
