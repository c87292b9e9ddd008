"""Writes a report to files: numbers as JSON and CSV, plots as PNG."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nas.provenance import provenance
from nas.truth.report import Judgement, Report, tau
from nas.truth.structure import BASELINES
from studies.report import FRONT, GRID, INK, KNEE, MUTED

MAX_PANELS = 12


def write(report: Report, folder: Path) -> None:
    """Write report.json, agreement.png, strata.png and, if there are curves, curves.png to an empty folder.

    If proxies were computed, scores.csv has their values by the id of the architecture; higher is better.
    """
    text = json.dumps(report.to_json() | provenance(), indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    _agreement(report).savefig(folder / "agreement.png")
    _strata(report).savefig(folder / "strata.png")
    if report.table.curves is not None:
        _curves(report).savefig(folder / "curves.png")
    proxies = [j for j in report.judgements if j.kind == "proxy"]
    if proxies:
        with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["arch_id", *(j.name for j in proxies)])
            for i, arch in enumerate(report.table.archs):
                writer.writerow([arch.id, *(f"{j.values[i]:.6g}" for j in proxies)])


def _agreement(report: Report) -> Figure:
    """A plot of Kendall's tau of every judgement with its interval, overall and within strata."""
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
    return figure


def _strata(report: Report) -> Figure:
    """Plots of judgements against truth, coloured by stratum: parameter count and the best judgements."""
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
    return figure


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
    first = [j for j in ranked if j.name == BASELINES[0]]
    return (first + [j for j in ranked if j not in first])[:MAX_PANELS]


def _curves(report: Report) -> Figure:
    """A plot of the training losses of every network, coloured by its final rank."""
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
    return figure


def _in_order(strata: Sequence[str]) -> list[str]:
    """The distinct strata, sorted by the first number in their names."""

    def number(name: str) -> tuple[int, str]:
        digits = "".join(c if c.isdigit() else " " for c in name.replace(",", "")).split()
        return (int(digits[0]) if digits else 0), name

    return sorted(set(strata), key=number)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure, grid = _figures(width, height, 1, 1)
    return figure, grid[0]


def _figures(width: float, height: float, rows: int, columns: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.tick_params(colors=INK, labelsize=8, length=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure, grid
