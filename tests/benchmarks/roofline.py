"""How well the estimate from peak rates ranks networks of built-in spaces by latency, against FLOPs and size."""

from __future__ import annotations

from dataclasses import replace

from predictors.agreement import kendall, spearman
from predictors.network_bench import measure_networks
from predictors.profiling import random_models
from predictors.roofline import estimate_ms, measured_rates
from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.arch import OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload
from tests.benchmarks.rows import Row

LENGTHS = {"tiny-lm": 64, "small-lm": 512, "hybrid-2026": 512}
NUM_NETWORKS, SAMPLES = 16, 9


def run() -> list[Row]:
    rates, rows = measured_rates(), []
    print(f"peak rates: {rates}")
    for name, length in LENGTHS.items():
        workload = Workload(seq_len=length)
        archs = sample(Encoding(load_space(name)), NUM_NETWORKS, 1, workload)
        plain = next(a for a in archs if any(b.mixer.op == "softmax_attention" for b in a.blocks))
        mixers = [plain_attention(4, 1, 16)]
        mixers.append(
            OpSpec.of(
                "softmax_attention", **dict(mixers[0].items) | {"normalizer": OpSpec.of("entmax", alpha=1.5)}
            )
        )
        pair = [
            replace(plain, blocks=tuple(replace(b, mixer=m) if b.is_active else b for b in plain.blocks))
            for m in mixers
        ]
        timed, failures = measure_networks(random_models([*archs, *pair]), workload, samples=SAMPLES)
        assert not failures, failures
        by_id = {m.subject: m.value for m in timed}
        measured = [by_id[a.id] for a in archs]
        costs = [cost(a, workload) for a in archs]
        scores: dict[str, list[float]] = {
            "roofline": [estimate_ms(a, workload, rates) for a in archs],
            "FLOPs": [c.flops for c in costs],
            "parameters": [c.parameters for c in costs],
        }
        found = {n: (spearman(v, measured), kendall(v, measured)) for n, v in scores.items()}
        softmax, entmax = pair
        guessed = [estimate_ms(a, workload, rates) for a in pair]
        ratio = by_id[entmax.id] / by_id[softmax.id], guessed[1] / guessed[0]
        words = "; ".join(f"{n} {s:.3f}, Kendall {k:.3f}" for n, (s, k) in found.items())
        print(
            f"{name}: {words}; entmax takes {ratio[0]:.2f} times softmax, estimated {ratio[1]:.2f}, FLOPs 1.00"
        )
        best = found.pop("roofline")
        others = ", ".join(f"{n} {s:.3f} ({k:.3f})" for n, (s, k) in found.items())
        rows.append(
            Row(
                f"latency from peak rates, Spearman, {name}",
                best[0],
                best[1],
                best[0],
                "(low: Kendall)",
                "",
                others,
            )
        )
    return rows
