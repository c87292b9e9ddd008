"""`nas proxies`: lists training-free scores and reports how well they rank trained networks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nas.cli.display import Display, table
from nas.files import check_folder, replace_folder
from nas.truth.readers import read, spread
from nas.truth.report import Judgement, Report, make_report, tau

MAX_STRATA = 10  # more columns do not fit a terminal
BAR = 0.6


def show(options: argparse.Namespace) -> int:
    from proxies.registry import proxies

    entries = sorted(proxies().values(), key=lambda p: p.name)
    if options.json:
        fields = ("name", "paper", "direction", "needs")
        print(json.dumps([{f: getattr(p, f) for f in fields} for p in entries]))
        return 0
    table(("proxy", "better", "needs", "source"), [(p.name, p.direction, p.needs, p.paper) for p in entries])
    return 0


def report(options: argparse.Namespace) -> int:
    if options.out:
        check_folder(options.out, options.overwrite, sources=[options.table], db=options.db)
    found = read(Path(options.table))
    if options.limit:
        found = found.take(spread(len(found.quality), options.limit))
    wanted = None
    if options.proxies is not None:
        wanted = [] if options.proxies == "none" else [n.strip() for n in options.proxies.split(",")]
    with Display(quiet=options.json) as display:
        made = make_report(
            found,
            proxies=wanted,
            draws=options.draws,
            labels=options.labels,
            workers=options.workers,
            on_step=display.hooks.on_step,
        )
    if options.out:
        from nas.truth.plots import write

        with replace_folder(options.out, options.overwrite, sources=[options.table], db=options.db) as folder:
            write(made, folder)
    if options.json:
        print(json.dumps(made.to_json()))
    else:
        _print(made)
    return 0


def _print(made: Report) -> None:
    ranked = sorted(made.judgements, key=lambda j: -tau(j) if tau(j) == tau(j) else 2.0)
    header = ("judgement", "kind", "tau", "rho", "best tenth", "tau in strata", "tau over parameters", "ms")
    table(header, [_line(j) for j in ranked])
    groups = sorted(set(made.table.strata))
    if 1 < len(groups) <= MAX_STRATA:
        shown = [g for g in groups if any(j.agreement and g in j.agreement.strata for j in ranked)]
        table(
            ("rho in each stratum", *shown),
            [(j.name, *(_stratum(j, g) for g in shown)) for j in ranked if j.agreement],
        )
    print(f"{len(made.table.quality)} networks, {made.table.quality_name}; {len(groups)} strata")
    for note in made.notes:
        print(f"note: {note}")
    for judgement in made.judgements:
        for reason, count in judgement.missing.items():
            print(f"{judgement.name}: {count} networks without a value: {reason}")
    for line in conclusions(made):
        print(line)


def _line(j: Judgement) -> tuple[str, ...]:
    name = f"-({j.name})" if j.turned else j.name
    ms = "" if j.ms is None else f"{j.ms:.1f}"
    if j.agreement is None:
        return (name, j.kind, "-", "-", "-", "-", "-", ms)
    overall, gain = j.agreement.overall, j.agreement.gain
    cells = (overall["kendall"], overall["spearman"], overall["recall"], j.agreement.within["kendall"])
    over = "" if gain is None or j.name == "parameters" else str(gain)
    return (name, j.kind, *map(str, cells), over, ms)


def _stratum(j: Judgement, group: str) -> str:
    assert j.agreement is not None
    found = j.agreement.strata.get(group)
    return "-" if found is None or str(found["spearman"]) == "-" else f"{found['spearman'].value:.2f}"


def conclusions(made: Report) -> list[str]:
    """Sentences on the best judgement of each kind, overall and within strata, and on the noise ceiling."""
    lines = []
    for title, kinds in (
        ("baseline", ("baseline",)),
        ("single proxy", ("proxy", "column")),
        ("combination", ("combination",)),
        ("combination with the start of a training", ("curve",)),
    ):
        for within in (False, True):
            best = made.best(kinds, within)
            if best is not None and best.agreement is not None:
                where = "within strata" if within else "overall"
                of = best.agreement.within if within else best.agreement.overall
                lines.append(f"best {title} {where}: {best.name}, tau {of['kendall']}, rho {of['spearman']}")
    if made.ceiling is not None:
        lines.append(
            f"noise ceiling, the tau of a perfect judgement: {made.ceiling[0]} overall, {made.ceiling[1]} in strata"
        )
    simple, single = made.best(("baseline",)), made.best(("proxy", "column"))
    if simple is not None and (single is None or tau(simple) >= tau(single)):
        lines.append(f"no proxy ranks these networks better than {simple.name.replace('_', ' ')}")
    for title, kinds in (("training-free", ("combination",)), ("any", ("combination", "curve"))):
        best = made.best(kinds)
        if best is not None:
            verb = "reaches" if tau(best) >= BAR else "does not reach"
            lines.append(f"from {made.labels} labels the best combination ({title}) {verb} tau {BAR} overall")
    return lines
