"""Read-only commands: `nas studies`, `nas front`, `nas ops`, `nas spaces`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from importlib.resources import files
from typing import Any

from nas.api import Result, default_db, opened, read
from nas.cli.listing import listing
from nas.errors import UsageError
from nas.execution.status import Status, status
from nas.files import check_file, replace_file
from nas.setup.plan import recipe_of
from searchspace.spec.reading import unknown
from studies.control import drivers
from studies.database import exists
from studies.report import draw_front, front_rows
from studies.store import Store
from studies.workers import workers
from studies.worth import Worth, floor_of, marks

HEADER = ("study", "space", "searcher", "state", "trials", "progress")
NO_STUDIES = "no studies yet: nas search --space tiny-lm"
_ABOUT = ("name", "slot", "kinds", "complexity", "state", "paper")


def asked(words: Sequence[str], actions: Sequence[str], bare: str, named: str) -> tuple[str, list[str]]:
    """Split `words` into an action and names; the action is `bare` without words, `named` for a name alone.

    Raises UsageError for several words if the first is no action.
    """
    if not words or words[0] in actions:
        return (words[0] if words else bare), list(words[1:])
    if len(words) > 1:
        raise UsageError(f"{' '.join(words)}: {unknown(words[0], actions)}")
    return named, list(words)


def studies(options: argparse.Namespace) -> int:
    """`nas studies` and its actions; returns the exit status. Raises UsageError for a name after `list`."""
    action, options.names = asked(
        options.words, ("list", "show", "compare", "rename", "delete"), "list", "show"
    )
    if action != "list":
        from nas.cli.studies import run

        return run(options, action)
    if options.names:
        raise UsageError(f"studies list {' '.join(options.names)}: takes no name")
    if not options.db and not exists(default_db()):  # before the first study
        return listing(options.json, [], HEADER, [], NO_STUDIES)
    with closing(opened(options.db)) as store:
        found, holders, served = store.studies(), drivers(store), workers(store)
    rows = [
        {
            **{n: getattr(s, n) for n in ("name", "space", "searcher")},
            "state": status(s.state, s.control, s.progress, holders.get(s.name)),
            "trials": s.counts,
            "progress": s.progress or None,
            "created_at": s.created_at,
        }
        for s in found
    ]
    lines = [
        (
            *(row[n] for n in ("name", "space", "searcher", "state")),
            ", ".join(f"{n} {state}" for state, n in row["trials"].items() if n),
            _how_far(row["progress"]),
        )
        for row in rows
    ]
    listing(options.json, rows, HEADER, lines, NO_STUDIES)
    if not served and any(row["state"] == Status.QUEUED for row in rows):
        print("no worker is connected: queued studies wait for  nas worker", file=sys.stderr)
    return 0


def _how_far(progress: dict[str, Any] | None) -> str:
    if progress is None:
        return ""
    eta = progress["eta_seconds"]
    left = "" if eta is None else f", {eta / 60:.0f} min left" if eta >= 60 else f", {eta:.0f} s left"
    return f"{progress['what']}: {progress['done']} of {progress['total']}{left}"


def front(options: argparse.Namespace) -> int:
    db = options.db or default_db()
    if options.picture:
        check_file(options.picture, overwrite=True, db=db, option="--picture")
    result = read(options.study, db=db, archs=False)
    rows, floor = front_json(result, db), floor_of(result.study, result.trials)
    if options.picture:
        draw(result, rows, options.picture, db, result.study.name)
    if options.json:
        print(json.dumps(rows))
    else:
        from nas.cli.display import front_table, show_worth

        front_table(result.study, rows, len(result.trials), "")
        show_worth(worth_of(result, db))
        if floor is not None:
            print(floor.sentence())
    return 0 if rows else 1


def draw(result: Result, rows: list[dict[str, Any]], path: str, db: str, title: str) -> None:
    """Draw the front, with `rows` from `front_json`, to the file `path`. Raises UsageError like `replace_file`."""
    study, floor = result.study, floor_of(result.study, result.trials)
    measured = [(r["number"], r["latency"]) for r in rows if r.get("latency", {}).get("p10") is not None]
    spreads = {number: {"latency": (latency["p10"], latency["p90"])} for number, latency in measured}
    replace_file(
        path,
        lambda new: draw_front(new, result.trials, study.objectives, title, spreads, floor, result.latencies),
        overwrite=True,
        db=db,
        option="--picture",
    )


def front_json(result: Result, db: str) -> list[dict[str, Any]]:
    """The rows of the front; with a latency objective each has "latency" as {predicted, measured} in ms."""
    rows = front_rows(result.front, result.study.objectives, marks(result.trials))
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


def worth_of(result: Result, db: str) -> Worth | None:
    """The comparison of the study's front with its plain networks; None if there is nothing to compare."""
    from nas.finalists import worth_of as compared

    with closing(Store(db)) as store:
        return compared(store, result.study, result.trials)


def operators(options: argparse.Namespace) -> int:
    """`nas ops` and its actions; returns the exit status. Raises UsageError for words that do not fit the action."""
    action, names = asked(options.words, ("list", "show", "check"), "list", "show")
    if action != "list" and (len(names) != 1 or options.catalogue):
        said = " ".join(["ops", action, *names])
        raise UsageError(f"{said}: name one operator and, if needed, its --slot")
    if options.work and action != "show":
        raise UsageError("--work: name one operator, as in  nas ops entmax --work")
    if action == "check":
        return _check_operator(options, names[0])
    if options.catalogue or (action == "list" and names):
        if names:
            raise UsageError(f"ops {' '.join(options.words)}: list and --catalogue take no name")
        return _catalogue(options)
    listed = json.loads(files("searchspace").joinpath("operators.json").read_text(encoding="utf-8"))
    slots = sorted({entry["slot"] for entry in listed})
    if options.slot is not None and options.slot not in slots:
        raise UsageError(f"--slot: {unknown(options.slot, slots)}")
    listed = [e for e in listed if options.slot in (None, e["slot"])]
    if action == "show":
        return _show_operator(options, names[0], listed)
    lines = [
        (e["slot"], e["name"], ", ".join(e["kinds"]), e["complexity"], e["state"], e["paper"]) for e in listed
    ]
    return listing(options.json, listed, ("slot", "operator", "kinds", "complexity", "state", "paper"), lines)


def _show_operator(options: argparse.Namespace, name: str, listed: list[dict[str, Any]]) -> int:
    """Print the facts about an operator, once for each slot that it fits."""
    found = [e for e in listed if e["name"] == name]
    if not found:
        raise UsageError(f"ops: {unknown(name, sorted({e['name'] for e in listed}))}")
    lines = []
    for entry in found:
        about = {n: ", ".join(v) if isinstance(v, list) else v for n, v in entry.items() if n in _ABOUT}
        choices = {
            n: " ".join(map(str, d["candidates"] if isinstance(d, dict) else d))
            for n, d in {**entry["choices"], **entry.get("options", {})}.items()
        }
        fixed = {name: f"{value} (default; a space may set it)" for name, value in entry["fixed"].items()}
        lines += [*about.items(), *choices.items(), *fixed.items()]
        if options.work:
            entry["work"] = _work_of(entry["slot"], name)
            lines += [(n.replace("_", " "), _shown(value)) for n, value in entry["work"].items()]
    return listing(options.json, found, ("what", "value"), lines)


def _work_of(slot: str, name: str) -> dict[str, Any]:
    from predictors.work import LENGTH, setting_work, standard_setting
    from searchspace.spec.workload import Workload

    try:
        setting = standard_setting(slot, name)
        found = setting_work(setting, Workload(seq_len=LENGTH))
    except ValueError as error:
        raise UsageError(f"--work: {error}") from error
    return {"setting": setting.key, **vars(found)}


def _check_operator(options: argparse.Namespace, name: str) -> int:
    """Returns the exit status: 1 if a contract is broken."""
    from rich.console import Console
    from rich.progress import track

    from searchspace.contracts.check import check, contracts_of

    todo = contracts_of(name, options.slot)
    progress = Console(stderr=True, quiet=options.json)
    results = [check(*each) for each in track(todo, f"checking {name}", console=progress)]
    broken = [r for r in results if r.failure is not None]
    if options.json:
        print(json.dumps({"operator": name, "contracts": [vars(r) for r in results]}))
        return 1 if broken else 0
    from nas.cli.display import table

    lines = [(r.contract.replace("_", " "), r.num_settings, r.failure or "holds") for r in results]
    table(("contract", "settings tried", "result"), lines)
    print(f"{name}: {len(results) - len(broken)} of {len(results)} contracts hold")
    return 1 if broken else 0


def _catalogue(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 if a design has no answer."""
    from searchspace.catalogue import rows

    found = rows()
    missing = [r for r in found if not r.answered]
    if options.json:
        print(json.dumps([vars(r) | {"answered": r.answered, "is_added": r.is_added} for r in found]))
        return 1 if missing else 0
    from nas.cli.display import table

    for section, is_added in (("", False), ("designs added since", True)):
        lines = [(r.row, r.design, r.kind, r.key, r.answer) for r in found if r.is_added == is_added]
        if section:
            print(f"\n{section}")
        table(("row", "design", "kind", "key", "answered by"), lines)
    print(f"{len(found) - len(missing)} of {len(found)} designs have an answer")
    return 1 if missing else 0


def spaces(options: argparse.Namespace) -> int:
    """`nas spaces` and its actions; returns the exit status. Raises UsageError for too many or too few names."""
    action, names = asked(options.words, ("list", "check"), "list", "check")
    if len(names) != (action == "check"):
        right = (
            "name one built-in space, TOML file or folder of an imported model"
            if action == "check"
            else "takes no name"
        )
        raise UsageError(f"spaces {action} {' '.join(names)}: {right}")
    if action == "check":
        return _check(options, names[0])
    import tomllib

    folder = files("searchspace").joinpath("spaces")
    rows: list[dict[str, Any]] = []
    for inside, is_design in ((folder, False), (folder.joinpath("designs"), True)):
        texts = [f.read_text(encoding="utf-8") for f in inside.iterdir() if f.name.endswith(".toml")]
        for space in sorted(map(tomllib.loads, texts), key=lambda s: str(s["name"])):
            about = {k: space.get(k, "") for k in ("name", "task", "data", "description")}
            rows.append(about | {"design": is_design})
    if options.json:
        return listing(True, rows, (), ())
    for first, is_design in (("space", False), ("published design", True)):
        shown = [tuple(r.values())[:-1] for r in rows if r["design"] == is_design]
        listing(False, rows, (first, "task", "data", "about"), shown)
    return 0


def _check(options: argparse.Namespace, space: str) -> int:
    from nas.setup.space_check import check

    report = check(space)
    lines = [(name.replace("_", " "), _shown(value)) for name, value in report.items()]
    return listing(options.json, report, ("what", "value"), lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return " to ".join(dict.fromkeys(map(_shown, value)))
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
