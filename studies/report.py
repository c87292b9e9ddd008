"""The front of a study as table rows and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from searchspace.spec.handmade import HANDMADE, IN_INT8, ORIGINALS
from studies.latencies import NOT_TIMED, Latencies
from studies.pareto import Points, front, losses
from studies.records import Objective, Trial, TrialState
from studies.worth import Floor, compromise, marks

INK, MUTED, GRID, FRONT, KNEE = "#22272e", "#9aa4b1", "#e8ebef", "#2563c9", "#d9480f"
PLAIN_INK, INT8_INK = "#7048a8", "#b8447a"


def front_rows(
    trials: Sequence[Trial], objectives: Sequence[Objective], marked: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Return the front as JSON-able rows, best in the first objective first; `marked` is from studies.worth.marks."""
    return [
        {
            "number": trial.number,
            "arch_id": trial.arch_id,
            "arch": trial.arch,
            "plain": trial.arch_id in marked,
            "kind": marked.get(trial.arch_id, ""),
            "values": {o.name: trial.values[o.name] for o in objectives},
        }
        for trial in front(trials, objectives)
    ]


def draw_front(
    path: Path | str,
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    title: str = "",
    spreads: Mapping[int, Mapping[str, tuple[float, float]]] | None = None,
    floor: Floor | None = None,
    latencies: Latencies = NOT_TIMED,
) -> None:
    """Plot complete trials and the front over the first two objectives, with a third as colour; writes a PNG.

    `spreads` maps trial numbers and objective names to the measured (p10, p90), drawn as a bar. `floor` is the limit of
    quality for the knee; `latencies` (ms) are measured ones that it uses. Raises ValueError unless there are two or
    three objectives.
    """
    from matplotlib.figure import Figure

    if len(objectives) not in (2, 3):
        names = ", ".join(o.name for o in objectives)
        raise ValueError(f"a front is drawn over two or three objectives, got {len(objectives)}: {names}")
    best = front(trials, objectives)
    all_values, front_values = (_values(group, objectives) for group in (_drawable(trials, objectives), best))
    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    _style(axes, objectives, title or f"{len(best)} of {len(all_values)} networks are on the front")
    if len(objectives) == 2:
        _draw_joined(axes, all_values, front_values)
    else:
        _draw_in_colour(figure, axes, all_values, front_values, objectives[2])
    _draw_plain(axes, trials, objectives)
    for trial, point in zip(best, front_values, strict=True):
        _draw_spread(axes, point, [(spreads or {}).get(trial.number, {}).get(o.name) for o in objectives[:2]])
    if best:
        knee = compromise(best, marks(trials), objectives, floor, latencies)
        x, y = front_values[best.index(knee)][:2]
        axes.scatter(
            [x], [y], s=130, facecolors="none", edgecolors=KNEE, linewidths=1.8, label="knee", zorder=5
        )
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    figure.savefig(path)


def _draw_plain(axes: Any, trials: Sequence[Trial], objectives: Sequence[Objective]) -> None:
    """Networks that need no search as open squares, an imported model itself as stars."""
    known, shown = marks(trials), _drawable(trials, objectives)
    square, star = {"s": 34, "marker": "s"}, {"s": 110, "marker": "*"}
    for kind in HANDMADE:
        here = [t for t in shown if known.get(t.arch_id) == kind]
        look = star if kind in ORIGINALS else square
        ink = INT8_INK if kind.endswith(IN_INT8) else PLAIN_INK
        if here:
            points = _values(here, objectives).T[:2]
            axes.scatter(
                *points, label=kind, zorder=4, facecolors="none", edgecolors=ink, linewidths=1.1, **look
            )


def _draw_spread(axes: Any, point: Points, spread: Sequence[tuple[float, float] | None]) -> None:
    """A bar from p10 to p90 along each axis that was measured; point [M]."""
    style = {"color": INK, "linewidth": 1.0, "alpha": 0.7, "marker": "|", "markersize": 4, "zorder": 3}
    if spread[0]:
        axes.plot(spread[0], [point[1]] * 2, **style)
    if spread[1]:
        axes.plot([point[0]] * 2, spread[1], **(style | {"marker": "_"}))


def _draw_joined(axes: Any, points: Points, front_points: Points) -> None:
    """Two objectives: the front as a stepped line, the border of the dominated region. points [n, 2]."""
    axes.scatter(*points.T, s=13, color=MUTED, alpha=0.55, linewidths=0, label="trial", zorder=2)
    axes.step(*front_points.T, where="post", color=FRONT, linewidth=1.6, zorder=3)
    dots = {"s": 30, "color": FRONT, "edgecolors": "white", "linewidths": 0.8, "label": "front", "zorder": 4}
    axes.scatter(*front_points.T, **dots)


def _draw_in_colour(figure: Any, axes: Any, points: Points, front_points: Points, third: Objective) -> None:
    """Three objectives: the front is a surface, so its points are circled instead of joined. points [n, 3]."""
    if len(points) == 0:
        return
    third_values = points[:, 2]
    scale = {"cmap": "viridis", "vmin": third_values.min(), "vmax": third_values.max()}
    axes.scatter(
        *points.T[:2], c=third_values, s=13, alpha=0.4, linewidths=0, label="trial", zorder=2, **scale
    )
    circled = {"s": 38, "edgecolors": INK, "linewidths": 0.9, "label": "front", "zorder": 4}
    drawn = axes.scatter(*front_points.T[:2], c=front_points[:, 2], **circled, **scale)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label(_label(third), color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9, length=0)


def _style(axes: Any, objectives: Sequence[Objective], title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=12, pad=12)
    axes.set_xlabel(_label(objectives[0]), color=INK)
    axes.set_ylabel(_label(objectives[1]), color=INK)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _drawable(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    points = losses(trials, objectives)
    return [
        t
        for t, p in zip(trials, points, strict=True)
        if t.state == TrialState.COMPLETE and np.isfinite(p).all()
    ]


def _values(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Points:
    """Values [n, M] with their original signs, as a user reads them."""
    signs: Points = np.array([o.loss(1.0) for o in objectives])
    return losses(trials, objectives) * signs


def _label(objective: Objective) -> str:
    unit = f" ({objective.unit})" if objective.unit else ""
    return f"{objective.name.replace('_', ' ')}{unit}, {objective.direction}"
