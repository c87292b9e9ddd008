"""`nas studies show`, `compare`, `rename` and `delete`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from nas.api import opened, read
from nas.cli.display import blocks, heading, table
from nas.errors import UsageError
from nas.setup.plan import check_name
from studies.comparison import Comparison, checkpoints, compare, reference_point
from studies.editing import delete_study, rename_study
from studies.importance import MIN_TRIALS, Importance, importance
from studies.pareto import hypervolume_over_time
from studies.records import JUDGED, Objective, Study, Trial, TrialState

MOST_IMPORTANT = 8
SHOWN_STATES = (*JUDGED, TrialState.FAILED)


def run(options: argparse.Namespace, action: str) -> int:
    """Run an action; returns the exit status. Raises UsageError for a wrong number of names."""
    what, wanted = ACTIONS[action]
    if len(options.names) != len(wanted.split()):
        raise UsageError(f"studies {action}: name {wanted}, got {' '.join(options.names) or 'nothing'}")
    return what(options)


def _show(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 if no trial is complete."""
    result = read(options.names[0], db=options.db)
    study, trials, front = result.study, result.trials, result.front
    objectives = study.objectives
    states: dict[str, int] = {s: n for s in SHOWN_STATES if (n := sum(t.state == s for t in trials))}
    at = checkpoints(len(trials)) if trials else []
    volumes = _volumes(trials, front, objectives, at)
    decided = importance(study, trials) if states.get(TrialState.COMPLETE, 0) >= MIN_TRIALS else []
    chosen = result.knee
    if options.json:
        print(json.dumps(_shown(study, states, front, chosen, at, volumes, decided)))
        return 0 if front else 1
    counted = ", ".join(f"{n} {state}" for state, n in states.items()) or "no trials"
    print(f"{study.name}: {study.space['name']}, {study.searcher}, {counted}, {len(front)} on the front")
    if chosen is None:
        return 1
    rows = [(heading(o), _best(front, o), f"{chosen.values[o.name]:.4g}") for o in objectives]
    table(("objective", "best", f"at the knee, trial {chosen.number}"), rows)
    print(f"knee: {blocks(chosen.arch)}")
    table(("trials", "hypervolume, of the last"), [(n, f"{v:.3f}") for n, v in zip(at, volumes, strict=True)])
    for found in decided:
        _importance_table(found)
    if not decided:
        print(f"importance of decisions: needs at least {MIN_TRIALS} complete trials")
    return 0


def _volumes(
    trials: Sequence[Trial], front: Sequence[Trial], objectives: Sequence[Objective], at: Sequence[int]
) -> list[float]:
    """Hypervolume after each number of trials in `at`, as a share of the final one."""
    if not front:
        return []
    curve = hypervolume_over_time(trials, objectives, reference_point([trials], objectives))
    return [float(curve[n - 1] / curve[-1]) for n in at]


def _best(front: Sequence[Trial], objective: Objective) -> str:
    best = min(front, key=lambda t: objective.loss(t.values[objective.name]))
    return f"{best.values[objective.name]:.4g} (trial {best.number})"


def _importance_table(found: Importance) -> None:
    rows = [(name, f"{part:.1%}") for name, part in list(found.decisions.items())[:MOST_IMPORTANT]]
    title = f"decision ({found.explained:.0%} of {found.objective} explained, {found.num_trials} trials)"
    table((title, f"importance for {found.objective}"), rows, empty=f"nothing decides {found.objective}")


def _shown(
    study: Study,
    states: dict[str, int],
    front: Sequence[Trial],
    chosen: Trial | None,
    at: Sequence[int],
    volumes: Sequence[float],
    decided: Sequence[Importance],
) -> dict[str, Any]:
    return {
        "study": study.name,
        "trials": states,
        "front_size": len(front),
        "knee": {"trial": chosen.number, "values": chosen.values} if chosen else None,
        "hypervolume": {"trials": list(at), "share_of_last": list(volumes)},
        "importance": [vars(i) for i in decided],
    }


def _compare(options: argparse.Namespace) -> int:
    results = [read(name, db=options.db, archs=False) for name in options.names]
    found = compare([r.study for r in results], [r.trials for r in results])
    if options.json:
        sides = [side.to_json() for side in found.sides]
        print(
            json.dumps({"at": found.at, "reference": found.reference, "studies": sides, "notes": found.notes})
        )
        return 0
    _compare_tables(found)
    return 0


def _compare_tables(found: Comparison) -> None:
    a, b = found.sides
    rows: list[Sequence[Any]] = [("complete trials", a.num_complete, b.num_complete)]
    rows += [("networks on the front", len(a.front), len(b.front))]
    rows += [("of these dominated by the other front", len(a.dominated), len(b.dominated))]
    rows += [
        (f"best {heading(o)}", *(f"{s.best[o.name]:.4g}" for s in found.sides)) for o in found.objectives
    ]
    for i, n in enumerate(found.at):
        rows.append((f"hypervolume after {n} trials", *map(_share, (a.volumes[i], b.volumes[i]))))
    table(("", a.name, b.name), rows)
    shared = ", ".join(o.name for o in found.objectives)
    print(f"fronts, dominated networks and hypervolumes use the objectives that both studies have: {shared}")
    print("hypervolume: as a share of the joint front's hypervolume, from one common reference point")
    for mine, theirs in ((a, b), (b, a)):
        if mine.dominated:
            pairs = ", ".join(f"{n} by {by}" for n, by in mine.dominated.items())
            print(f"trials of {mine.name} dominated by {theirs.name}: {pairs}")
    for note in found.notes:
        print(f"note: {note}")


def _share(volume: float | None) -> str:
    return "" if volume is None else f"{volume:.3f}"


def _rename(options: argparse.Namespace) -> int:
    old, new = options.names
    check_name(new, "studies rename:")
    with closing(opened(options.db)) as store:
        rename_study(store, store.study(old), new)
    print(json.dumps({"renamed": old, "name": new}) if options.json else f"{old} is now {new}")
    return 0


def _delete(options: argparse.Namespace) -> int:
    (name,) = options.names
    with closing(opened(options.db)) as store:
        study = store.study(name)
        count = len(store.results(study))
        delete_study(store, study)
    print(
        json.dumps({"deleted": name, "trials": count})
        if options.json
        else f"{name} and its {count:,} trials are deleted; its supernet and measurements are kept for other studies"
    )
    return 0


ACTIONS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "show": (_show, "STUDY"),
    "compare": (_compare, "A B"),
    "rename": (_rename, "OLD NEW"),
    "delete": (_delete, "STUDY"),
}
