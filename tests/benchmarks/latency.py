"""Latency used in the search against that of the extracted networks, compared with FLOPs as a predictor."""

from __future__ import annotations

from nas.home import home
from predictors.evaluate import evaluate
from predictors.profiling import local_profile
from searchspace.load import load_space
from searchspace.spec.workload import Workload
from tests.benchmarks.rows import Row

NUM_NETWORKS = 30


def run() -> list[Row]:
    space, workload = load_space("tiny-lm"), Workload()
    profile = local_profile(space, workload, home() / "profiles")
    evaluation = evaluate(space, profile, NUM_NETWORKS)
    print(evaluation.table())
    by_name = {row.name: row for row in evaluation.rows}
    flops, predicted, roofline = (by_name[name] for name in ("flops", "predicted", "roofline"))
    within = list(predicted.by_depth.values())
    return [
        Row(
            "latency, Spearman",
            predicted.spearman,
            min(within),
            max(within),
            "(by depth)",
            "0.9",
            f"FLOPs {flops.spearman:.3f}, roofline from peak rates {roofline.spearman:.3f}",
        )
    ]
