"""Commands that only look: `nas studies`, `nas front`, `nas ops`, `nas spaces`."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from importlib.resources import files
from typing import Any

from nas.api import Result, default_db, read
from nas.cli.listing import listing
from nas.errors import UsageError
from nas.files import check_file, replace_file
from nas.setup.plan import recipe_of
from studies.report import draw_front, front_rows
from studies.store import Store


def studies(options: argparse.Namespace) -> int:
    if options.action is not None:
        from nas.cli.studies import run

        return run(options)
    with closing(Store(options.db or default_db())) as store:
        found = store.studies()
    shown = ("name", "space", "searcher", "state")
    rows = [
        {**{n: getattr(s, n) for n in shown}, "trials": s.counts, "created_at": s.created_at} for s in found
    ]
    lines = [
        (*(row[n] for n in shown), ", ".join(f"{n} {state}" for state, n in row["trials"].items() if n))
        for row in rows
    ]
    empty = "no studies yet: nas search --space tiny-lm"
    return listing(options.json, rows, ("study", "space", "searcher", "state", "trials"), lines, empty)


def front(options: argparse.Namespace) -> int:
    db = options.db or default_db()
    if options.picture:
        check_file(options.picture, overwrite=True, db=db, option="--picture")
    result = read(options.study, db=db, archs=False)
    rows = front_json(result, db)
    if options.picture:
        title, spreads = result.study.name, latency_spreads(rows)
        replace_file(
            options.picture,
            lambda new: draw_front(new, result.trials, result.study.objectives, title, spreads),
            overwrite=True,
            db=db,
            option="--picture",
        )
    if options.json:
        print(json.dumps(rows))
    else:
        from nas.cli.display import front_table

        front_table(result.study, rows, len(result.trials), "")
    return 0 if rows else 1


def front_json(result: Result, db: str) -> list[dict[str, Any]]:
    """The front's rows; a latency stands as {predicted, measured} beside the values."""
    rows = front_rows(result.front, result.study.objectives)
    predicted = [o for o in result.study.objectives if o.name == "latency" and o.source == "predicted"]
    if not predicted:
        return rows
    from nas.finalists import Latency, measured_latencies

    with closing(Store(db)) as store:
        wanted = [r["arch_id"] for r in rows]
        measured = measured_latencies(store, result.study, recipe_of(result.study), wanted)
    for row in rows:
        believed, timed = row["values"]["latency"], measured.get(row["arch_id"])
        row["latency"] = Latency(believed, timed, predicted[0].upper).to_json()
    return rows


def latency_spreads(rows: list[dict[str, Any]]) -> dict[int, dict[str, tuple[float, float]]]:
    """For the picture: between which times the measured networks of the front ran, by the number of the trial."""
    measured = [(r["number"], r["latency"]) for r in rows if r.get("latency", {}).get("p10") is not None]
    return {number: {"latency": (latency["p10"], latency["p90"])} for number, latency in measured}


def operators(options: argparse.Namespace) -> int:
    if options.action == "check":
        if options.name is None or options.catalogue:
            raise UsageError("ops check: name an operator, and at most its --slot")
        return _check_operator(options)
    if options.catalogue:
        return _catalogue(options)
    listed = json.loads(files("searchspace").joinpath("operators.json").read_text(encoding="utf-8"))
    slots = sorted({entry["slot"] for entry in listed})
    if options.slot is not None and options.slot not in slots:
        raise UsageError(f"--slot {options.slot}: unknown; known: {', '.join(slots)}")
    listed = [e for e in listed if options.slot in (None, e["slot"])]
    lines = [
        (e["slot"], e["name"], ", ".join(e["kinds"]), e["complexity"], e["state"], e["paper"]) for e in listed
    ]
    return listing(options.json, listed, ("slot", "operator", "kinds", "complexity", "state", "paper"), lines)


def _check_operator(options: argparse.Namespace) -> int:
    """Exit status 1 where a contract is broken."""
    from rich.console import Console
    from rich.progress import track

    from searchspace.contracts.check import check, contracts_of

    todo = contracts_of(options.name, options.slot)
    progress = Console(stderr=True, quiet=options.json)
    results = [check(*each) for each in track(todo, f"checking {options.name}", console=progress)]
    broken = [r for r in results if r.failure is not None]
    if options.json:
        print(json.dumps({"operator": options.name, "contracts": [vars(r) for r in results]}))
        return 1 if broken else 0
    from nas.cli.display import table

    lines = [(r.contract.replace("_", " "), r.num_settings, r.failure or "holds") for r in results]
    table(("contract", "settings tried", "result"), lines)
    print(f"{options.name}: {len(results) - len(broken)} of {len(results)} contracts hold")
    return 1 if broken else 0


def _catalogue(options: argparse.Namespace) -> int:
    """Exit status 1 where a design has no answer."""
    from searchspace.catalogue import rows

    found = rows()
    missing = [r for r in found if not r.answered]
    if options.json:
        print(json.dumps([vars(r) | {"answered": r.answered} for r in found]))
        return 1 if missing else 0
    from nas.cli.display import table

    lines = [(r.row, r.design, r.kind, r.key, r.answer) for r in found]
    table(("row", "design", "kind", "key", "answered by"), lines)
    print(f"{len(found) - len(missing)} of {len(found)} designs have an answer")
    return 1 if missing else 0


def spaces(options: argparse.Namespace) -> int:
    if options.action == "check":
        if options.file is None:
            raise UsageError("spaces check: name a built-in space or a TOML file")
        return _check(options)
    import tomllib

    folder = files("searchspace").joinpath("spaces")
    found = [
        tomllib.loads(f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".toml")
    ]
    rows = [
        {k: s.get(k, "") for k in ("name", "task", "data", "description")}
        for s in sorted(found, key=lambda s: s["name"])
    ]
    return listing(options.json, rows, ("space", "task", "data", "about"), [tuple(r.values()) for r in rows])


def _check(options: argparse.Namespace) -> int:
    from nas.setup.space_check import check

    report = check(options.file)
    lines = [(name.replace("_", " "), _shown(value)) for name, value in report.items()]
    return listing(options.json, report, ("what", "value"), lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return " to ".join(_shown(v) for v in value)
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
