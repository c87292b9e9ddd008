"""How well predicted latencies match those of real networks, compared with repeatability and simple baselines.

The baselines are fitted to the same networks as the prediction: a line through FLOPs, a line through parameters, and a
linear model of FLOPs, parameters, width and active blocks. The roofline is not fitted: it counts calls, FLOPs and
bytes, and uses the device's peak rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from predictors.agreement import Floats, kendall, spearman
from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable
from predictors.network_bench import dtype_of, measure_networks
from predictors.profiling import random_models
from predictors.roofline import estimate_ms, measured_rates
from predictors.runtimes import EAGER
from searchspace.cost import cost
from searchspace.sampling import sample
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

MIN_GROUP = 5  # a rank correlation of fewer networks means nothing
NEAR = 0.15


@dataclass(frozen=True)
class Agreement:
    """Agreement of one prediction with the measured latencies. Errors are relative; `near` is the share within NEAR."""

    name: str
    spearman: float
    kendall: float
    median_error: float
    error_95: float
    near: float
    by_depth: dict[int, float]


@dataclass(frozen=True)
class Evaluation:
    """`measured` [n] in ms and one row per predictor; the row `retest` is a second measurement used as a prediction."""

    space: str
    device: str
    runtime: str
    workload: Workload
    num_fitted: int
    measured: Floats
    depths: tuple[int, ...]
    rows: tuple[Agreement, ...]
    inside: float

    def table(self) -> str:
        counts = {d: self.depths.count(d) for d in sorted(set(self.depths))}
        groups = [d for d, n in counts.items() if n >= MIN_GROUP]
        low, high = self.measured.min(), self.measured.max()
        lines = [
            f"{self.space} on {self.device}, in {self.runtime}, {self.workload}; fitted to {self.num_fitted} networks",
            f"{len(self.measured)} other random networks, {low:.2f} to {high:.2f} ms; last columns: Spearman among "
            "those with each number of active blocks (number of networks)",
            f"{'':12}{'Spearman':>9}{'Kendall':>9}{'median':>8}{'95 %':>8}{f'<{NEAR:.0%}':>7}"
            + "".join(f"{f'{d} ({counts[d]})':>10}" for d in groups),
        ]
        for row in self.rows:
            within = "".join(f"{row.by_depth[d]:>10.3f}" for d in groups)
            errors = f"{row.median_error:>8.1%}{row.error_95:>8.1%}{row.near:>7.0%}"
            lines.append(f"{row.name:12}{row.spearman:>9.3f}{row.kendall:>9.3f}{errors}{within}")
        lines.append(f"{self.inside:.0%} of the measured latencies lie within the predicted range of 90 %")
        return "\n".join(lines)


def evaluate(
    space: SpaceSpec,
    profile: DeviceProfile,
    count: int = 30,
    device: str = "cpu",
    *,
    samples: int = 30,
    seed: int = 0,
    graphs: Path | None = None,
    tables: Mapping[str, OperatorTable] = {},
    on_round: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare predictions with `count` networks measured now, twice, in the profile's runtime.

    For another runtime than eager, the eager latencies of the same networks are one of the baselines, since an eager
    table cannot rank better than the latencies it predicts. The predictions of the other `tables`, by name, are
    baselines too. Both are scaled by their median ratio to the measured latencies.

    Raises ValueError where a network cannot be run, or where the profile has no networks of the space.
    """
    table, workload = OperatorTable.of_profile(profile, space.name), profile.workload
    fitted = [row for row in profile.networks if row.space == space.name]
    if not fitted:
        raise ValueError(f"the profile has no networks of {space.name}: profile that space first")
    used = {row.arch.id for row in fitted}
    archs = [a for a in sample(Encoding(space), count + len(fitted), seed, workload) if a.id not in used][
        :count
    ]
    models, runs = random_models(archs), []
    in_runtimes = [profile.runtime] * 2 + [EAGER] * (profile.runtime != EAGER)
    for again, runtime in enumerate(in_runtimes):
        found, failures = measure_networks(
            models,
            workload,
            device,
            nominal_ms=profile.reference_ms,
            samples=samples,
            threads=profile.threads,
            seed=seed + again,
            runtime=runtime,
            graphs=graphs,
            on_round=None if on_round is None else partial(_one_of, on_round, again, len(in_runtimes)),
        )
        if failures:
            name, reason = next(iter(failures.items()))
            raise ValueError(f"architecture {name} of {space.name} does not run on {device}: {reason}")
        runs.append(found)
    by_run = [{m.subject: m.value for m in run} for run in runs]
    measured, retest, *eager = (np.array([values[arch.id] for arch in archs]) for values in by_run)
    predictions = [table.latency(arch, workload) for arch in archs]
    known = np.array([row.measurement.value for row in fitted])
    X, seen = (_simple_features(a, workload) for a in (archs, [row.arch for row in fitted]))
    rates = measured_rates(device, dtype_of(workload))
    rankings = {"predicted": np.array([p.value_ms for p in predictions]), "retest": retest}
    rankings["roofline"] = np.array([estimate_ms(arch, workload, rates) for arch in archs])
    for name, columns in (("flops", [0]), ("parameters", [1]), ("linear", [0, 1, 2, 3])):
        rankings[name] = _linear(seen[:, columns], known, X[:, columns])
    in_eager = {n: np.array([t.latency(a, workload).value_ms for a in archs]) for n, t in tables.items()}
    in_eager |= dict(zip((EAGER,), eager, strict=False))
    for name, values in in_eager.items():
        rankings[name] = values * float(np.median(measured / values))
    depths = tuple(num_active(arch) for arch in archs)
    inside = [p.low_ms <= m <= p.high_ms for p, m in zip(predictions, measured, strict=True)]
    return Evaluation(
        space=space.name,
        device=runs[0][0].device,
        runtime=profile.runtime,
        workload=workload,
        num_fitted=len(fitted),
        measured=measured,
        depths=depths,
        rows=tuple(_agreement(n, v, measured, depths) for n, v in rankings.items()),
        inside=float(np.mean(inside)),
    )


def _one_of(on_round: Callable[[int, int], None], run: int, runs: int, done: int, of: int) -> None:
    on_round(done + run * of, runs * of)


def num_active(arch: ArchSpec) -> int:
    """Return the number of blocks that compute something."""
    return sum(block.is_active for block in arch.blocks)


def _simple_features(archs: Sequence[ArchSpec], workload: Workload) -> Floats:
    """FLOPs, parameters, width and active blocks [n, 4]."""
    costs = [cost(arch, workload) for arch in archs]
    rows = [(c.flops, c.parameters, a.d_model, num_active(a)) for c, a in zip(costs, archs, strict=True)]
    return np.array(rows, dtype=float)


def _linear(X: Floats, ms: Floats, unseen: Floats) -> Floats:
    """Predicted ms [n] for `unseen` [n, F], by least squares of relative errors on X [k, F] and ms [k]."""
    scale = X.max(0)
    A = np.column_stack([np.ones(len(X)), X / scale]) / ms[:, None]
    theta = np.linalg.lstsq(A, np.ones(len(X)), rcond=None)[0]
    found: Floats = np.column_stack([np.ones(len(unseen)), unseen / scale]) @ theta
    return found


def _agreement(name: str, values: Floats, measured: Floats, depths: tuple[int, ...]) -> Agreement:
    errors = np.abs(values - measured) / measured
    by_depth = {}
    for depth in sorted(set(depths)):
        here = np.array(depths) == depth
        if here.sum() >= MIN_GROUP:
            by_depth[depth] = spearman(values[here], measured[here])
    return Agreement(
        name,
        spearman(values, measured),
        kendall(values, measured),
        float(np.median(errors)),
        float(np.quantile(errors, 0.95)),
        float(np.mean(errors <= NEAR)),
        by_depth,
    )
