"""`nas search` and `nas resume`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from nas.api import Result, default_db, resumed, searched
from nas.cli.display import Display, front_table, show_rungs, show_worth, show_worthless
from nas.cli.look import draw, front_json, worth_of
from nas.cli.options import given
from nas.errors import UsageError
from nas.files import check_file
from nas.provenance import provenance
from nas.request.recipe import load_recipe
from nas.request.schema import ResumeRequest, SearchRequest
from nas.setup.plan import recipe_for, source_of
from studies.outlook import short_of_time
from studies.worth import floor_of


def search(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 if no trial completed. Raises UsageError without --space, --recipe or --model."""
    asked = given(SearchRequest, options)
    if not asked.keys() & {"space", "recipe", "model"}:
        raise UsageError("--space is missing: name a space (`nas spaces` lists them) or a TOML file")
    if options.print_recipe:
        request = SearchRequest.of(asked)
        source, recipe = source_of(request)
        print(recipe_for(request, recipe or load_recipe(source, model=request.model)).to_toml(), end="")
        return 0
    _check_picture(options)
    _say_where_workers_are_needed(options)
    with Display(quiet=options.json) as display:
        result = searched(SearchRequest.of(asked | {"hooks": display.hooks}))
    return _report(result, options)


def resume(options: argparse.Namespace) -> int:
    _check_picture(options)
    _say_where_workers_are_needed(options)
    with Display(quiet=options.json) as display:
        asked = {"study": options.study, "hooks": display.hooks}
        result = resumed(ResumeRequest.of(given(ResumeRequest, options) | asked))
    return _report(result, options)


def _check_picture(options: argparse.Namespace) -> None:
    if options.picture:
        check_file(options.picture, overwrite=True, db=options.db or "", option="--picture")


def _drawn(result: Result, rows: list[dict[str, Any]], db: str, wanted: str | None) -> str:
    """Draw the front to `wanted`, or for None to STUDY.png unless that is another file; returns the path or ""."""
    name = f"{result.study.name}.png" if wanted is None else wanted
    if not name:
        return ""
    try:
        draw(result, rows, name, db, f"{result.study.name}: {len(result.front)} networks on the front")
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
    """Print and draw the front; returns the exit status: 1 if no trial completed."""
    study, db = result.study, options.db or default_db()
    rows, worth = front_json(result, db), worth_of(result, db)
    floor = floor_of(study, result.trials)
    picture = ""
    if len(study.objectives) in (2, 3) and result.front:
        picture = _drawn(result, rows, db, options.picture)
    if options.json:
        found = {
            "study": study.name,
            "reason": result.reason,
            "front": rows,
            "worth": None if worth is None else worth.to_json() | {"sentence": worth.sentence()},
            "floor": None if floor is None else floor.to_json(),
            "picture": picture,
        }
        print(json.dumps(provenance() | found))
    else:
        front_table(study, rows, len(result.trials), result.reason)
        show_worthless(study, result.trials)
        show_rungs(study, result.trials)
        show_worth(worth)
        if short := short_of_time(study, result.trials):
            print(short)
        if floor is not None:
            print(floor.sentence())
        if picture:
            print(f"picture: {picture}")
        if study.quality in ("train", "supernet") and rows:
            print(f"take one: nas extract {study.name} --db {db} --knee --out {study.name}-knee")
    return 0 if result.front else 1
