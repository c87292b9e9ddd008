"""`nas search` and `nas resume`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nas.api import Result, default_db
from nas.api import resume as resume_study
from nas.api import search as search_space
from nas.cli.arguments import bounds, minutes, more_trials
from nas.cli.display import Display, front_table, show_rungs, show_worth, show_worthless
from nas.cli.look import front_json, latency_spreads, worth_of
from nas.errors import UsageError
from nas.evaluation.stated import split
from nas.files import check_file, replace_file
from nas.provenance import provenance
from nas.setup.content import check_given
from nas.setup.recipe import load_recipe


def search(options: argparse.Namespace) -> int:
    if options.space is None and options.recipe is None and options.model is None:
        raise UsageError("--space is missing: name a space (`nas spaces` lists them) or a TOML file")
    check_given("--data", options.data, "plays, digits, mnist, or the path of your text")
    check_given("--model", options.model, "the folder of an imported model")
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
    _check_picture(options)
    _say_where_workers_are_needed(options)
    with Display(quiet=options.json) as display:
        result = search_space(
            space=options.space,
            objectives=objectives,
            study=options.study,
            db=options.db,
            bounds=limits,
            device=options.device,
            kernels=options.kernels,
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
    _check_picture(options)
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


def _check_picture(options: argparse.Namespace) -> None:
    if options.picture:
        check_file(options.picture, overwrite=True, db=options.db, option="--picture")


def _drawn(result: Result, rows: list[dict[str, Any]], db: str, wanted: str | None) -> str:
    """Where the front was drawn: at `wanted`, where None is STUDY.png unless another file is there; "" for nowhere."""
    from studies.report import draw_front

    name = f"{result.study.name}.png" if wanted is None else wanted
    if not name:
        return ""
    title = f"{result.study.name}: {len(result.front)} networks on the front"
    spreads = latency_spreads(rows)

    def draw(new: Path) -> None:
        draw_front(new, result.trials, result.study.objectives, title, spreads)

    try:
        replace_file(name, draw, overwrite=True, db=db, option="--picture")
    except UsageError as error:
        if wanted is not None:
            raise
        print(f"nas: no picture is drawn: {error}", file=sys.stderr)
        return ""
    return name


def _say_where_workers_are_needed(options: argparse.Namespace) -> None:
    if options.runner == "workers" and not options.json:
        db = options.db or default_db()
        print(f"trials wait for workers: start any number of  nas worker --db {db}", file=sys.stderr)


def _report(result: Result, options: argparse.Namespace) -> int:
    """The front as table and picture; exit status 1 where no trial completed."""
    study, db = result.study, options.db or default_db()
    rows, worth = front_json(result, db), worth_of(result, db)
    picture = ""
    if len(study.objectives) in (2, 3) and result.front:
        picture = _drawn(result, rows, db, options.picture)
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
