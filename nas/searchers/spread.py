"""The first population of an evolutionary search: random, but spread evenly over sizes."""

from __future__ import annotations

import numpy as np

from nas.searchers.base import Problem, as_genome
from searchspace.spec.genome import Genome

_FIRST = 1  # random stream, separate from that of `ask`


class Spread:
    """Random genomes; every `size` consecutive ones cover sizes, or depths and widths, evenly and in random order."""

    def __init__(self, problem: Problem, size: int) -> None:
        self._encoding, self._draw = problem.encoding, problem.draw
        self._shares = np.random.default_rng([problem.seed, _FIRST]).permutation(size) / max(1, size - 1)
        self._values = {}
        for i, variable in enumerate(self._encoding.variables):
            if variable.name == "d_model" or variable.name.endswith((".depth", ".width_ratio")):
                order = np.random.default_rng([problem.seed, i, _FIRST]).permutation(size)
                self._values[i] = order * len(variable.values) // size

    def __call__(self, number: int, rng: np.random.Generator) -> Genome:
        if self._draw is not None:
            return self._draw(rng, float(self._shares[number % len(self._shares)]))
        genes = rng.integers(0, self._encoding.num_values)
        for i, values in self._values.items():
            genes[i] = values[number % len(values)]
        return as_genome(self._encoding.canonical(genes[None])[0])
