"""Converts what an evaluator returned or raised to the outcome of a trial, by the same rules for every runner."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from nas.errors import Infeasible
from searchspace.spec.arch import ArchSpec
from studies.fidelity import at
from studies.patience import Patience, say
from studies.records import Objective, Outcome, Trial, TrialState
from studies.rows import storable

_PATIENCE = Patience.endless(say)
Evaluate = Callable[
    ..., Mapping[str, float]
]  # arguments: an ArchSpec and, if the trial has one, its fidelity


def evaluate_trial(
    evaluate: Evaluate, trial: Trial, objectives: Sequence[Objective], worker: str = ""
) -> Outcome:
    """Run `evaluate` on the trial's architecture; an exception it raises becomes a failed outcome.

    A trial of a lower fidelity ends as `pruned`, with its values, because only full evaluations compete for the front.
    """
    objectives = at(trial.fidelity, objectives)
    start = time.perf_counter()
    values: dict[str, float] = {}
    violations: dict[str, float] = {}
    error = ""
    try:
        arch = ArchSpec.from_json(trial.arch)
        arguments = (arch, trial.fidelity) if trial.fidelity else (arch,)
        result = _PATIENCE.retry(lambda: evaluate(*arguments))  # a full disk costs time, not the trial
        values = _numbers(result)
        error = _why_incomplete(values, objectives)
        violations = {} if error else _violations(values, objectives)
    except Infeasible as stop:
        values, violations = stop.values, stop.violations
    except Exception as exception:
        error = _sentence(exception)
    judged = TrialState.PRUNED if trial.fidelity else TrialState.COMPLETE
    state = TrialState.FAILED if error else TrialState.INFEASIBLE if violations else judged
    return Outcome(trial.number, state, values, violations, error, worker, time.perf_counter() - start)


def _numbers(result: Mapping[str, float]) -> dict[str, float]:
    """The result with float values. Raises TypeError if it is no mapping from strings to numbers."""
    if not isinstance(result, Mapping):
        raise TypeError(f"the evaluator returned {result!r}; return a dict of values by names of objectives")
    for name in result:
        if not isinstance(name, str):
            raise TypeError(
                f"the evaluator returned a value for {name!r}; use strings, the names of objectives, as keys"
            )
    return {storable(name): float(value) for name, value in result.items()}


def _why_incomplete(values: Mapping[str, float], objectives: Sequence[Objective]) -> str:
    for objective in objectives:
        if objective.name not in values:
            given = ", ".join(values) or "nothing"
            return f"the evaluator returned no {objective.name!r}, it returned: {given}"
        if not math.isfinite(values[objective.name]):
            return f"{objective.name} is {values[objective.name]}"
    return ""


def _violations(values: Mapping[str, float], objectives: Sequence[Objective]) -> dict[str, float]:
    found = {o.name: o.violation(values[o.name]) for o in objectives}
    return {name: violation for name, violation in found.items() if violation > 0}


def _sentence(exception: Exception) -> str:
    name = type(exception).__name__
    try:
        message = storable(str(exception))
    except Exception as broken:  # the exception's __str__ fails
        message = f"its __str__ raises {type(broken).__name__}"
    # torch raises its own subclass of RuntimeError; this module does not import torch
    out_of_memory = isinstance(exception, MemoryError) or (
        isinstance(exception, RuntimeError)
        and (name == "OutOfMemoryError" or "out of memory" in message or "can't allocate memory" in message)
    )
    if out_of_memory:
        return f"out of memory: {message or name}"
    return f"{name}: {message}" if message else name
