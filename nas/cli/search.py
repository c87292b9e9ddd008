"""`nas search` and `nas resume`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from nas.api import Result, default_db
from nas.api import resume as resume_study
from nas.api import search as search_space
from nas.cli.arguments import bounds, minutes, more_trials
from nas.cli.display import Display, front_table, show_rungs, show_worth, show_worthless
from nas.cli.look import front_json, latency_spreads, worth_of
from nas.errors import UsageError
from nas.evaluation.stated import split
from nas.provenance import provenance
from nas.setup.recipe import load_recipe


def search(options: argparse.Namespace) -> int:
    if options.space is None and options.recipe is None and options.model is None:
        raise UsageError("--space is missing: name a space (`nas spaces` lists them) or a TOML file")
    recipe = load_recipe(options.space or "", options.recipe) if options.recipe else None
    objectives = split(options.objectives) if options.objectives is not None else None
    changes = {
        "trials": options.trials,
        "minutes": minutes(options.time),
        "seed": options.seed,
        "searcher": options.searcher,
        "quality": options.quality,
        "ladder": names(options.ladder),
        "gate_anyway": options.gate_anyway or None,
        "data": options.data,
        "model": options.model,
        "recovery_steps": options.recovery_steps,
    }
    limits = bounds(options.min, options.max)
    if options.print_recipe:
        recipe = recipe or load_recipe(options.space or str(Path(options.model, "space.toml")))
        changed = recipe.changed(**changes, objectives=tuple(objectives) if objectives else None)
        print(changed.changed(bounds={**changed.bounds, **limits}).to_toml(), end="")
        return 0
    _say_where_workers_are_needed(options)
    with Display(quiet=options.json) as display:
        result = search_space(
            space=options.space,
            objectives=objectives,
            study=options.study,
            db=options.db,
            bounds=limits,
            device=options.device,
            runner=options.runner,
            workers=options.workers,
            address=options.address,
            gpus_per_worker=options.gpus_per_worker,
            warm_start=options.warm_start,
            target=options.target,
            recipe=recipe,
            hooks=display.hooks,
            **changes,
        )
    return _report(result, options)


def names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def resume(options: argparse.Namespace) -> int:
    _say_where_workers_are_needed(options)
    with Display(quiet=options.json) as display:
        result = resume_study(
            options.study,
            db=options.db,
            trials=more_trials(options.trials),
            minutes=minutes(options.time),
            runner=options.runner,
            workers=options.workers,
            address=options.address,
            gpus_per_worker=options.gpus_per_worker,
            hooks=display.hooks,
        )
    return _report(result, options)


def _say_where_workers_are_needed(options: argparse.Namespace) -> None:
    if options.runner == "workers" and not options.json:
        db = options.db or default_db()
        print(f"trials wait for workers: start any number of  nas worker --db {db}", file=sys.stderr)


def _report(result: Result, options: argparse.Namespace) -> int:
    """The front as table and picture; exit status 1 where no trial completed."""
    from studies.report import draw_front

    study, db = result.study, options.db or default_db()
    rows, worth = front_json(result, db), worth_of(result, db)
    picture = ""
    if len(study.objectives) in (2, 3) and result.front:
        picture = f"{study.name}.png" if options.picture is None else options.picture
    if picture:
        draw_front(
            picture,
            result.trials,
            study.objectives,
            f"{study.name}: {len(result.front)} networks on the front",
            latency_spreads(rows),
        )
    if options.json:
        found = {
            "study": study.name,
            "reason": result.reason,
            "front": rows,
            "worth": None if worth is None else worth.to_json() | {"sentence": worth.sentence()},
            "picture": picture,
        }
        print(json.dumps(provenance() | found))
    else:
        front_table(study, rows, len(result.trials), result.reason)
        show_worthless(study, result.trials)
        show_rungs(study, result.trials)
        show_worth(worth)
        if picture:
            print(f"picture: {picture}")
        if study.quality in ("train", "supernet") and rows:
            print(f"take one: nas extract {study.name} --db {db} --knee --out {study.name}-knee")
    return 0 if result.front else 1
