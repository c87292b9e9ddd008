"""Sampling, validity and costs of random architectures, with caches as warm as after a search's first minute."""

from __future__ import annotations

import time

import numpy as np

from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.sampling import sample, valid_architectures
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from tests.benchmarks.rows import Row, per_second

COUNT = 2000


def run() -> list[Row]:
    encoding, workload = Encoding(load_space("tiny-lm")), Workload()
    seeds = iter(range(1000))

    def draw() -> int:
        found = valid_architectures(encoding, np.random.default_rng(next(seeds)), workload)
        for _ in range(COUNT):
            next(found)
        return COUNT

    def decode() -> float:
        rows = encoding.random(COUNT, np.random.default_rng(0)).tolist()
        start = time.perf_counter()
        for row in rows:
            encoding.decode(tuple(row))
        return COUNT / (time.perf_counter() - start)

    draw()
    archs = sample(encoding, COUNT, 5, workload)

    def costs() -> int:
        for arch in archs:
            cost(arch, workload)
        return COUNT

    return [
        per_second(
            "sampling + validity, tiny-lm", draw, aim="5,000", baseline=f"decoding alone {decode():,.0f}"
        ),
        per_second(
            "cost evaluations, tiny-lm", costs, aim="2,000", baseline="none: it is a sum over cached parts"
        ),
    ]
