"""The report as files: `report.json`, its plots as PNG, and one page of HTML that holds them all."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.provenance import provenance
from nas.truth.report import Judgement, Report, tau
from nas.truth.structure import BASELINES
from studies.report import FRONT, GRID, INK, KNEE, MUTED

MAX_PANELS = 12
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#22272e;max-width:1100px;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}"
    "td,th{padding:.25rem .7rem;border-bottom:1px solid #e8ebef;text-align:left}img{max-width:100%}"
)


def write(report: Report, folder: Path, title: str) -> None:
    """To an empty folder: report.json, agreement.png, strata.png, curves.png where there are curves, and report.html.

    scores.csv, where proxies were computed: their values, higher is better, by the id of the architecture.
    """
    data = report.to_json() | provenance()
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    pictures = {"agreement": _agreement(report), "strata": _strata(report)}
    if report.table.curves is not None:
        pictures["curves"] = _curves(report)
    for name, png in pictures.items():
        (folder / f"{name}.png").write_bytes(png)
    (folder / "report.html").write_text(_page(report, data, pictures, title), encoding="utf-8")
    proxies = [j for j in report.judgements if j.kind == "proxy"]
    if proxies:
        with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["arch_id", *(j.name for j in proxies)])
            for i, arch in enumerate(report.table.archs):
                writer.writerow([arch.id, *(f"{j.values[i]:.6g}" for j in proxies)])


def _agreement(report: Report) -> bytes:
    """tau of every judgement with its interval, overall and within strata."""
    shown = sorted((j for j in report.judgements if j.agreement is not None), key=tau)
    figure, axes = _figure(8.4, 1.2 + 0.24 * len(shown))
    for offset, within, colour, label in (
        (0.15, False, FRONT, "overall"),
        (-0.15, True, KNEE, "within strata"),
    ):
        for y, judgement in enumerate(shown):
            assert judgement.agreement is not None
            found = (judgement.agreement.within if within else judgement.agreement.overall)["kendall"]
            axes.plot([found.lower, found.upper], [y + offset] * 2, color=colour, linewidth=1.2, alpha=0.6)
            named = {"label": label} if y == 0 else {}
            axes.plot(found.value, y + offset, "o", markersize=4, color=colour, **named)
    if report.ceiling is not None:
        for estimate, colour in zip(report.ceiling, (FRONT, KNEE), strict=True):
            axes.axvline(estimate.value, color=colour, linewidth=1, linestyle=":")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [j.name for j in shown])
    axes.set_xlabel("Kendall's tau with the truth, 95 % interval; dotted: noise ceiling", color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="lower right")
    return _png(figure)


def _strata(report: Report) -> bytes:
    """Judgement against truth, a colour for each stratum: the best ones, parameters and the supernet's."""
    import matplotlib

    panels = _panels(report)
    rows = -(-len(panels) // 3)
    figure, grid = _figures(11, 3.4 * rows, rows, min(3, len(panels)))
    groups = _in_order(report.table.strata)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(groups)))
    of = np.array(report.table.strata)
    for axes, judgement in zip(grid, panels, strict=False):
        for group, colour in zip(groups, colours, strict=True):
            rows_of = of == group
            axes.scatter(
                judgement.values[rows_of],
                report.table.quality[rows_of],
                s=14,
                color=colour,
                linewidths=0,
                alpha=0.8,
            )
        axes.set_title(f"{judgement.name}: tau {tau(judgement):.2f}", loc="left", fontsize=10, color=INK)
        positive = judgement.values[np.isfinite(judgement.values)]
        if len(positive) and positive.min() > 0 and positive.max() > 30 * positive.min():
            axes.set_xscale("log")
        axes.set_ylabel(report.table.quality_name, color=INK, fontsize=9)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return _png(figure)


def _panels(report: Report) -> list[Judgement]:
    ranked = sorted(
        (
            j
            for j in report.judgements
            if j.agreement is not None and j.kind not in ("combination", "curve") and tau(j) == tau(j)
        ),
        key=tau,
        reverse=True,
    )
    first = [j for j in ranked if j.kind == "inherited" or j.name == BASELINES[0]]
    return (first + [j for j in ranked if j not in first])[:MAX_PANELS]


def _curves(report: Report) -> bytes:
    """Training losses of every network, coloured by its rank in the end."""
    import matplotlib

    curves = report.table.curves
    assert curves is not None
    figure, axes = _figure(7.2, 4.6)
    order = np.argsort(report.table.quality)
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0, 1, len(order)))
    steps = np.arange(1, curves.shape[1] + 1) / curves.shape[1]
    for place, row in enumerate(order):
        axes.plot(steps, curves[row], color=colours[place], linewidth=0.9, alpha=0.7)
    axes.set_xlabel("part of the training; dark: best in the end", color=INK)
    axes.set_ylabel("training loss in nats", color=INK)
    late = curves[:, len(steps) // 4 :]
    axes.set_ylim(late.min() * 0.98, late.max() * 1.02)
    return _png(figure)


def _in_order(strata: Sequence[str]) -> list[str]:
    """By the first number in the name."""

    def number(name: str) -> tuple[int, str]:
        digits = "".join(c if c.isdigit() else " " for c in name.replace(",", "")).split()
        return (int(digits[0]) if digits else 0), name

    return sorted(set(strata), key=number)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure, grid = _figures(width, height, 1, 1)
    return figure, grid[0]


def _figures(width: float, height: float, rows: int, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.tick_params(colors=INK, labelsize=8, length=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure, grid


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _page(report: Report, data: dict[str, Any], pictures: dict[str, bytes], title: str) -> str:
    header = ("judgement", "kind", "tau", "rho", "best tenth", "tau within strata", "ms")
    lines = ["<tr>" + "".join(f"<th>{h}</th>" for h in header) + "</tr>"]
    for j in sorted(report.judgements, key=lambda j: -tau(j) if tau(j) == tau(j) else 2.0):
        found = j.agreement
        cells = [j.name, j.kind]
        if found is not None:
            cells += [str(found.overall[s]) for s in ("kendall", "spearman", "recall")]
            cells.append(str(found.within["kendall"]))
            cells.append("" if j.ms is None else f"{j.ms:.1f}")
        lines.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    images = [
        f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in pictures.items()
    ]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in data["notes"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}: {data['networks']} networks</h1>"
        f"<p>Truth: {html.escape(data['quality'])}.</p><ul>{notes}</ul>"
        f"<table>{''.join(lines)}</table>{''.join(images)}</html>\n"
    )
