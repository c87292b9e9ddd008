"""The tables of the READMEs, from the results that commands wrote: `python -m tests.repository.readme` rewrites them.

<!-- table: NAME --> ... <!-- end -->        everything between the marks is generated
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.benchmarks.proof_figures import COMPARISONS, Figures, figures
from tests.benchmarks.search import COUNTS

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "nas" / "README.md"
PAGES = (ROOT / "README.md", GUIDE, ROOT / "studies" / "README.md")
RESULTS = ROOT / "studies" / "results" / "tiny-lm"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN = 8


def front() -> str:
    """Members of the front, evenly spread, with what the search believed beside what was measured."""
    data = json.loads((RESULTS.parent / "small-lm" / "front.json").read_text(encoding="utf-8"))
    timed = [row for row in data["front"] if row["latency"]["measured"] is not None]
    timed = timed[:: max(1, len(timed) // SHOWN)][:SHOWN]
    header = ("trial", "loss (nats)", "latency, predicted (ms)", "measured (ms, p10 - p90)", "blocks")
    rows: list[tuple[str, ...]] = []
    for row in timed:
        took, values = row["latency"], row["values"]
        measured = f"{took['measured']:.3g} ({took['p10']:.3g} - {took['p90']:.3g})"
        name = f"{row['number']} (plain)" if row["plain"] else str(row["number"])
        rows.append(
            (name, f"{values['loss']:.3f}", f"{took['predicted']:.3g}", measured, _blocks(row["arch"]))
        )
    device = timed[0]["latency"]["device"] if timed else ""
    worth = data["worth"]["sentence"] if data["worth"] else ""
    return (
        _table(header, rows)
        + f"\n{len(data['front'])} networks are on the front; {device}. What it is worth: {worth}.\n"
    )


def benchmarks() -> str:
    """What was measured, but for the fitted exponents of each mixer, which are two lines for every one."""
    return _measured(_load("benchmarks.json"))


def judge() -> str:
    """How well the belief of a search ranks networks."""
    return _measured(json.loads((RESULTS.parent / "judge" / "judge.json").read_text(encoding="utf-8")))


def replay() -> str:
    """Who goes on, replayed on tables of trained networks."""
    return _measured(json.loads((RESULTS.parent / "judge" / "replay.json").read_text(encoding="utf-8")))


def _measured(data: dict[str, Any]) -> str:
    """A file that `python -m tests.benchmarks --out` wrote."""
    header = ("what", "median", "range", "unit", "aim", "trivial baseline")
    rows: list[tuple[str, ...]] = [
        (
            r["name"],
            f"{r['value']:,.4g}",
            f"{r['low']:,.4g} - {r['high']:,.4g}",
            r["unit"],
            r["aim"],
            r["baseline"],
        )
        for r in data["rows"]
        if not r["unit"].startswith("r^2")
    ]
    return _table(header, rows) + f"\n{data['machine']}.\n"


def trust() -> str:
    """Of every judgement that was tried, over all networks of the truth table."""
    data = json.loads((RESULTS.parent / "agreement" / "agreement.json").read_text(encoding="utf-8"))
    rows: list[tuple[str, ...]] = [
        (r["name"].removeprefix("tau, "), f"{r['value']:.2f}", f"{r['low']:.2f} - {r['high']:.2f}", r["aim"])
        for r in data["rows"]
        if r["name"].startswith("tau, ")
    ]
    return _table(("inherited loss, or judged by", "tau", "95 % interval", "aim"), rows)


def searchers() -> str:
    """The best after 500 evaluations first; medians and quartiles over seeds."""
    shown = (80, 125, 250, 500)
    runs: dict[str, list[list[float]]] = {}
    for line in (RESULTS.parent / "search" / "runs.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        name = f"{run['searcher']}, {run['lag']} results behind" if run["lag"] else run["searcher"]
        runs.setdefault(name, []).append([run["shares"][COUNTS.index(count)] for count in shown])
    rows = []
    for name, shares in sorted(runs.items(), key=lambda item: -median(found[-1] for found in item[1])):
        columns = [quantiles(column, n=4, method="inclusive") for column in zip(*shares, strict=True)]
        rows.append((name, *(f"{m:.3f} ({a:.3f} - {b:.3f})" for a, m, b in columns), str(len(shares))))
    return _table(("searcher", *(f"at {count} (quartiles)" for count in shown), "seeds"), rows)


def proof() -> str:
    """What each method had to show after the same time: medians over seeds, and their extremes."""
    runs: dict[tuple[str, float], list[list[dict[str, Any]]]] = {}
    for path in sorted((RESULTS.parent / "proof").glob("*min.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        runs.setdefault((content["space"], max(r["minutes"] for r in content["rows"])), []).append(
            content["rows"]
        )
    titles = ("hypervolume (nats ms)", *COMPARISONS)
    lines = [
        (space, f"{f.minutes:g} min", f.method, *(_over_seeds(f.values.get(t)) for t in titles), _count(f))
        for (space, _), seeds in sorted(runs.items())
        for f in figures(seeds)
    ]
    return _table(("space", "after", "method", *titles, "seeds"), lines)


def _count(found: Figures) -> str:
    """Of the seeds that the method was run for: each figure has a value for each."""
    return str(len(next(iter(found.values.values()))))


def _over_seeds(values: list[float] | None) -> str:
    if values is None:
        return "-"
    known = [v for v in values if isfinite(v)]
    if len(known) < len(values):
        return f"none in {len(values) - len(known)} of {len(values)}" if len(values) > 1 else "none"
    return f"{median(known):.3g}" + (f" ({min(known):.3g} - {max(known):.3g})" if len(known) > 1 else "")


def layers() -> str:
    """The modules of nas as the contract of import-linter has them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    (found,) = (c["layers"] for c in contracts if c.get("containers") == ["nas"])
    rows: list[tuple[str, ...]] = [(", ".join(map(_linked, layer.split(" | "))),) for layer in found]
    return _table(("`nas`, from the top down",), rows)


def _linked(name: str) -> str:
    """As the guide links it, beside which it lies."""
    path = name if (GUIDE.parent / name).is_dir() else f"{name}.py"
    return f"[{name}]({path})"


TABLES: dict[str, Callable[[], str]] = {
    "front": front,
    "layers": layers,
    "benchmarks": benchmarks,
    "trust": trust,
    "judge": judge,
    "replay": replay,
    "searchers": searchers,
    "proof": proof,
}


def rendered(text: str) -> str:
    """A README with every table made anew."""
    return MARKED.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


def _load(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _blocks(arch: dict[str, Any]) -> str:
    """Mixer and ffn of each block in use."""
    used = [b for b in arch["blocks"] if b["mixer"]["op"] != "none" or b["ffn"]["op"] != "none"]
    words = [
        f"{b['mixer']['op'].replace('_', ' ')} + {b['ffn']['op']}{b['ffn'].get('d_ff', '')}" for b in used
    ]
    return f"d{arch['d_model']}: " + "; ".join(words)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
