"""Warm start: a new study learns from the results of an earlier one on the same space with the same objectives.

The new study records which results these are: all before the first trial of the earlier study that was unfinished at
that time. So a resumed study learns from the same results even if the earlier study has continued since.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nas.errors import UsageError
from nas.searchers.base import Observation, observation_of
from predictors.runtimes import EAGER
from searchspace.spec.genome import Encoding
from studies.records import Study
from studies.settings import WarmStart
from studies.store import Store


def with_warm_start(store: Store, study: Study, name: str) -> Study:
    """The planned study with the results to learn from recorded in its settings.

    Raises UsageError if study `name` has another space, objectives, data or model, or no results, or if the searcher
    is not `guided`.
    """
    if study.searcher != "guided":
        raise UsageError(f"--warm-start {name}: only --searcher guided learns from another study")
    earlier = store.study(name)
    if _searched(earlier) != _searched(study):
        raise UsageError(
            f"--warm-start {name}: it has another space or other objectives; name a study on space "
            f"{study.space['name']} with {','.join(o.name for o in study.objectives)}"
        )
    _check_content(earlier, study)
    trials = store.results(earlier)
    end = next((t.number for t in trials if not t.is_finished), len(trials))
    if not end:
        raise UsageError(f"--warm-start {name}: it has no results yet")
    return replace(study, settings=replace(study.settings, warm_start=WarmStart(name, end)))


def results(store: Store, study: Study, encoding: Encoding) -> list[Observation]:
    """The recorded results of the earlier study, with negative numbers because they are no trials of this study."""
    note = study.settings.warm_start
    if note is None:
        return []
    earlier = store.study(note.study)
    trials = [t for t in store.trials(earlier) if t.number < note.trials and not t.fidelity]
    found = [observation_of(t, study.objectives, encoding) for t in trials]
    return [replace(t, number=t.number - note.trials) for t in found]


def check_earlier(store: Store, study: Study) -> None:
    """Raises UsageError if the earlier study was evaluated on other data, or with another imported model."""
    if note := study.settings.warm_start:
        _check_content(store.study(note.study), study)


def _check_content(earlier: Study, study: Study) -> None:
    """Raises UsageError if content ids of data or model differ. Unknown ids are not compared."""
    for what in ("data", "model"):
        ids = [s.settings.recipe.get(f"{what}_id", "") for s in (earlier, study)]
        if all(ids) and ids[0] != ids[1]:
            raise UsageError(
                f"--warm-start {earlier.name}: its {what} has the content {ids[0]}, this study's {ids[1]}; "
                f"name a study on the same {what}"
            )


def _searched(study: Study) -> tuple[Any, ...]:
    """What must be equal for a warm start: the space's decisions and how objectives are measured, not the bounds."""
    space = {
        name: value for name, value in study.space.items() if name not in ("constraints", "name", "version")
    }
    return space, [
        (o.name, o.direction, o.source, o.workload, o.device, o.runtime or EAGER) for o in study.objectives
    ]
