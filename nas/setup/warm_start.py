"""What a new study may learn from an earlier one on the same space with the same objectives.

Which results these are is noted with the new study: those before the first trial of the earlier one that was not
finished then. So a resume is told the same, however the earlier study went on.
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
    """The study to be, with the results to learn from in its settings. Raises UsageError where they do not suit."""
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
    """What was noted, numbered below 0: these are no trials of the study."""
    note = study.settings.warm_start
    if note is None:
        return []
    earlier = store.study(note.study)
    trials = [t for t in store.trials(earlier) if t.number < note.trials and not t.fidelity]
    found = [observation_of(t, study.objectives, encoding) for t in trials]
    return [replace(t, number=t.number - note.trials) for t in found]


def check_earlier(store: Store, study: Study) -> None:
    """Raises UsageError where what the study learns from was judged on other data, or of another model."""
    if note := study.settings.warm_start:
        _check_content(store.study(note.study), study)


def _check_content(earlier: Study, study: Study) -> None:
    """Losses on other data, or of another model, say nothing here. Ids that are not known are not compared."""
    for what in ("data", "model"):
        ids = [s.settings.recipe.get(f"{what}_id", "") for s in (earlier, study)]
        if all(ids) and ids[0] != ids[1]:
            raise UsageError(
                f"--warm-start {earlier.name}: its {what} has the content {ids[0]}, this study's {ids[1]}; "
                f"name a study on the same {what}"
            )


def _searched(study: Study) -> tuple[Any, ...]:
    """What has to be the same: the decisions and how they are judged, not the bounds."""
    space = {
        name: value for name, value in study.space.items() if name not in ("constraints", "name", "version")
    }
    return space, [
        (o.name, o.direction, o.source, o.workload, o.device, o.runtime or EAGER) for o in study.objectives
    ]
