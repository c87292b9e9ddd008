"""Random search: every decision uniform over its values. The baseline that others have to beat."""

from __future__ import annotations

import numpy as np

from nas.searchers.base import Searcher, as_genome
from searchspace.spec.genome import Genome


class RandomSearcher(Searcher):
    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        return as_genome(self.encoding.random(1, rng)[0]), "random", ()
