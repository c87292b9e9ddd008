"""How well the predicted latency orders real networks, beside FLOPs, parameters and the measurement's own error.

    python -m predictors.evaluate --space tiny-lm --count 30 --profile FOLDER

measures what the profile lacks first, then `count` random networks twice, none of which the prediction was fitted on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.lookup import OperatorTable
from predictors.network_bench import measure_networks
from predictors.profiling import local_profile, random_models
from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

Floats = NDArray[np.float64]
MIN_GROUP = 5  # a rank correlation of fewer networks says nothing


@dataclass(frozen=True)
class Agreement:
    """How one ranking agrees with the measured latencies; the error is relative, nan for what is not a latency."""

    name: str
    spearman: float
    kendall: float
    median_error: float
    by_depth: dict[int, float]


@dataclass(frozen=True)
class Evaluation:
    """`measured` [n] in ms, one row for each predictor; `retest` is a second measurement taken as a prediction."""

    space: str
    device: str
    workload: Workload
    measured: Floats
    depths: tuple[int, ...]
    rows: tuple[Agreement, ...]
    inside: float

    def table(self) -> str:
        counts = {d: self.depths.count(d) for d in sorted(set(self.depths))}
        groups = [d for d, n in counts.items() if n >= MIN_GROUP]
        low, high = self.measured.min(), self.measured.max()
        lines = [
            f"{self.space} on {self.device}, {self.workload}",
            f"{len(self.measured)} random networks, {low:.2f} to {high:.2f} ms; last columns: Spearman among those "
            "with so many active blocks (number of networks)",
            f"{'':12}{'Spearman':>9}{'Kendall':>9}{'error':>8}"
            + "".join(f"{f'{d} ({counts[d]})':>10}" for d in groups),
        ]
        for row in self.rows:
            error = "" if math.isnan(row.median_error) else f"{row.median_error:.1%}"
            within = "".join(f"{row.by_depth[d]:>10.3f}" for d in groups)
            lines.append(f"{row.name:12}{row.spearman:>9.3f}{row.kendall:>9.3f}{error:>8}{within}")
        lines.append(f"{self.inside:.0%} of the measured latencies lie within the predicted range")
        return "\n".join(lines)


def evaluate(
    space: SpaceSpec,
    table: OperatorTable,
    count: int = 30,
    device: str = "cpu",
    *,
    nominal_ms: float,
    threads: int = 1,
    samples: int = 30,
    seed: int = 0,
) -> Evaluation:
    """Compare predictions with networks measured here and now. Raises ValueError where one can't be run."""
    workload = table.workload
    archs = sample(Encoding(space), count, seed, workload)
    models = random_models(archs)
    runs = []
    for again in range(2):
        found, failures = measure_networks(
            models, workload, device, nominal_ms=nominal_ms, samples=samples, threads=threads, seed=again
        )
        if failures:
            name, reason = next(iter(failures.items()))
            raise ValueError(f"architecture {name} of {space.name} does not run on {device}: {reason}")
        runs.append(found)
    measured, retest = (np.array([m.value for m in run]) for run in runs)
    predictions = [table.latency(arch, workload) for arch in archs]
    costs = [cost(arch, workload) for arch in archs]
    depths = tuple(num_active(arch) for arch in archs)
    rankings: list[tuple[str, list[float], bool]] = [
        ("predicted", [p.value_ms for p in predictions], True),
        ("retest", retest.tolist(), True),
        ("flops", [float(c.flops) for c in costs], False),
        ("parameters", [float(c.parameters) for c in costs], False),
    ]
    inside = [p.low_ms <= m <= p.high_ms for p, m in zip(predictions, measured, strict=True)]
    return Evaluation(
        space=space.name,
        device=runs[0][0].device,
        workload=workload,
        measured=measured,
        depths=depths,
        rows=tuple(_agreement(n, np.array(v), measured, depths, ms) for n, v, ms in rankings),
        inside=float(np.mean(inside)),
    )


def num_active(arch: ArchSpec) -> int:
    """Blocks that do something."""
    return sum(block.is_active for block in arch.blocks)


def _agreement(
    name: str, values: Floats, measured: Floats, depths: tuple[int, ...], is_latency: bool
) -> Agreement:
    error = float(np.median(np.abs(values - measured) / measured)) if is_latency else math.nan
    by_depth = {}
    for depth in sorted(set(depths)):
        here = np.array(depths) == depth
        if here.sum() >= MIN_GROUP:
            by_depth[depth] = spearman(values[here], measured[here])
    return Agreement(name, spearman(values, measured), kendall(values, measured), error, by_depth)


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1 [n]; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2)[inverse]
    return shared


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Correlation of the ranks; nan where one side is constant."""
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b; nan where one side is constant."""
    x, y = (np.sign(np.subtract.outer(v, v)) for v in (np.asarray(a, float), np.asarray(b, float)))
    scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / scale if scale else math.nan


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m predictors.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--space", required=True, help="a built-in space or a TOML file")
    parser.add_argument("--profile", required=True, type=Path, help="folder that holds the local profiles")
    parser.add_argument("--count", type=int, default=30, help="random networks to measure")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--phase", default="forward", choices=("forward", "prefill", "decode"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--context-len", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    space = load_space(options.space)
    workload = Workload(options.phase, options.batch_size, options.seq_len, options.context_len)
    profile = local_profile(
        space,
        workload,
        options.profile,
        options.device,
        threads=options.threads,
        on_progress=lambda done, of, text: say(f"{text}: {done} of {of}"),
    )
    say(f"measuring {options.count} networks twice")
    table = OperatorTable.of_profile(profile, space.name)
    found = evaluate(
        space,
        table,
        options.count,
        options.device,
        nominal_ms=profile.reference_ms,
        threads=options.threads,
        seed=options.seed,
    )
    sys.stderr.write("\n")
    sys.stdout.write(found.table() + "\n")


def say(text: str) -> None:
    """One line of progress, in place of the last."""
    sys.stderr.write(f"\r{text:<72}")


if __name__ == "__main__":
    main()
