"""Random search: uniform in size, with random decisions. The baseline for other searchers."""

from __future__ import annotations

import numpy as np

from nas.searchers.base import Searcher
from searchspace.spec.genome import Genome


class RandomSearcher(Searcher):
    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        return self.random(rng), "random", ()
