"""Chooses and makes the runner that evaluates the trials of a search."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.execution.database import DatabaseRunner
from nas.execution.local import LocalRunner
from nas.execution.outcome import Evaluate
from nas.execution.pool import PoolRunner
from nas.execution.runner import Runner
from nas.execution.worker import EvaluatorSpec
from nas.machine import num_cores
from nas.request.schema import Running
from nas.setup.plan import judged
from nas.setup.preparation import JUDGE
from studies.records import Study
from studies.store import Store


@dataclass(frozen=True)
class Choice:
    """The requested runner and its settings; "" and 0 select a default that suits the study and the machine."""

    name: str = ""
    workers: int = 0
    address: str = ""
    gpus_per_worker: float = 0.0

    @classmethod
    def of(cls, asked: Running) -> Choice:
        """The choice in `asked`. Raises UsageError for options of a Ray cluster with another runner."""
        if asked.runner != "ray" and (asked.address or asked.gpus_per_worker):
            option = (
                f"--address {asked.address}"
                if asked.address
                else f"--gpus-per-worker {asked.gpus_per_worker:g}"
            )
            raise UsageError(f"{option}: only --runner ray has a cluster")
        return cls(asked.runner, asked.workers, asked.address, asked.gpus_per_worker)


def check_judge(choice: Choice, study: Study, evaluate: Evaluate) -> None:
    """Check a user's judge before the study is stored. Raises UsageError if the runner's processes can't import it."""
    if not callable(evaluate):
        raise UsageError(
            f"evaluate {evaluate!r}: give a function that maps an architecture to {{objective: value}}"
        )
    name = choice.name or default_runner(study)
    if name in ("pool", "ray") and not _can_be_imported(_spec_of(evaluate), evaluate, name):
        raise UsageError(
            f"evaluate {_spec_of(evaluate).target}: processes of --runner {name} can't import it by that name; "
            "define it at the top of a module, or take --runner local"
        )


def _can_be_imported(spec: EvaluatorSpec, evaluate: Evaluate, runner: str) -> bool:
    if spec.target.startswith("__main__:"):  # processes of a pool import the main module again, from its file
        return runner == "pool" and hasattr(sys.modules["__main__"], "__file__")
    try:
        return spec.found() is evaluate
    except ValueError:
        return False


def _spec_of(evaluate: Evaluate) -> EvaluatorSpec:
    kind = type(evaluate)  # a callable instance is named by its class
    return EvaluatorSpec(
        f"{getattr(evaluate, '__module__', kind.__module__)}:{getattr(evaluate, '__qualname__', '<lambda>')}"
    )


def make_runner(
    choice: Choice, store: Store, study: Study, evaluate: Evaluate | None, settings: dict[str, Any]
) -> Runner:
    """The runner that `choice` selects; `settings` are those of the built-in judge, used if `evaluate` is None."""
    name = choice.name or default_runner(study)
    if name == "workers":
        return DatabaseRunner(store, study)
    objectives = judged(study)
    if name == "local":
        if evaluate is None:
            from nas.evaluation.judge import build

            evaluate = build(**settings)
        return LocalRunner(evaluate, objectives)
    spec = EvaluatorSpec(JUDGE, settings) if evaluate is None else _spec_of(evaluate)
    if name == "ray":
        from nas.execution.ray_runner import Cluster, RayRunner

        cluster = Cluster(choice.address, choice.workers, choice.gpus_per_worker)
        return RayRunner(spec, objectives, cluster, _shipped(settings))
    return PoolRunner(spec, objectives, choice.workers or num_cores())


def default_runner(study: Study) -> str:
    """The runner "pool" if each trial runs a network and there are several cores, else "local" (pools start slowly)."""
    runs_networks = any(o.source in ("inherited", "trained", "proxy") for o in study.objectives)
    return "pool" if runs_networks and num_cores() > 1 else "local"


def _shipped(settings: dict[str, Any]) -> Sequence[str]:
    """The paths in `settings` to copy to other machines: the supernet, the profile and the user's own data."""
    paths = [settings.get("supernet"), settings.get("profile"), settings.get("recipe", {}).get("data")]
    return [path for path in paths if path and Path(path).exists()]
