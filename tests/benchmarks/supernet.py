"""Evaluations with inherited weights: cut out a network, test it on 512 held-out examples."""

from __future__ import annotations

import time

from nas.evaluation.inherited import InheritedQuality, quality
from nas.tasks.load import load_task
from searchspace.load import load_space
from searchspace.sampling import sample
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from tests.benchmarks.rows import Row, per_second


def run() -> list[Row]:
    space = load_space("tiny-lm")
    task = load_task(space.data, stem=space.stem, head=space.head)
    judged = InheritedQuality.of(Supernet(space), task, num_examples=512, batch_size=128)
    archs = sample(Encoding(space), 20, 0, Workload())
    models = [judged.network(a) for a in archs]
    start = time.perf_counter()
    for model in models:
        quality(model, judged.validation)
    alone = len(models) / (time.perf_counter() - start)

    def evaluate() -> int:
        for arch in archs:
            judged(arch)
        return len(archs)

    baseline = f"forward passes alone {alone:.3g}"
    return [per_second("inherited-weight evaluations, tiny-lm", evaluate, repeats=3, baseline=baseline)]
