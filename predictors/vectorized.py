"""Latencies of many genomes at once: the sums of each distinct block are looked up once and added by indexing.

What a block costs is decided by its own genes and by the few that set its width and its token grid. Those genes, as one
number, are the key to a sorted list of the blocks seen so far; the rest is numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from predictors.fewshot import Floats
from predictors.lookup import OperatorTable
from searchspace.model import parts
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, Genomes
from searchspace.spec.workload import Workload

Codes = NDArray[np.uint64]
UNUSED = np.uint64(0)  # the code of a block beyond the depth, which costs nothing


class GenomePredictor:
    """Predictions of one table for the genomes of one space."""

    def __init__(self, encoding: Encoding, table: OperatorTable, workload: Workload) -> None:
        table.check(workload)
        self.encoding, self.table = encoding, table
        rng = np.random.default_rng(0)
        # Odd multipliers modulo 2^64: sums of genes times them collide with a chance of one in 2^63.
        self._factors = rng.integers(0, 2**63, len(encoding), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._places = _places(encoding)
        self._known = [_Known(table.num_sums) for _ in self._places]
        self._depths = [np.array(encoding.variables[s.depth].values) for s in encoding._stages]
        self._repeats = [np.array(encoding.variables[s.repeats].values) for s in encoding._stages]

    def latency(self, genomes: Genomes) -> tuple[Floats, Floats, Floats]:
        """(ms, lower end, upper end) [n] of canonical genomes [n, V]; equal to `OperatorTable.latency` of each."""
        return self.table.correction.predict(self.sums(genomes))

    def sums(self, genomes: Genomes) -> Floats:
        """[n, 2 P + 2], see `predictors.lookup.Sums`."""
        # One more, because the genes of a block that is used may all be 0.
        products = (np.ascontiguousarray(genomes.T).astype(np.uint64) + np.uint64(1)) * self._factors[:, None]
        found = np.zeros((len(genomes), self.table.num_sums))
        for place, known in zip(self._places, self._known, strict=True):
            codes = products[list(place.genes)].sum(0)
            if place.stage is None:
                found += known.rows(genomes, codes, self._read(place))
                continue
            genes = self.encoding._stages[place.stage]
            used = self._depths[place.stage][genomes[:, genes.depth]] > place.index
            times = self._repeats[place.stage][genomes[:, genes.repeats]] * used
            found += known.rows(genomes, np.where(used, codes, UNUSED), self._read(place)) * times[:, None]
        return found

    def _read(self, place: _Place) -> Callable[[NDArray[np.int64]], Floats]:
        def read(genome: NDArray[np.int64]) -> Floats:
            arch = self.encoding.decode(tuple(genome.tolist()))
            return self._part_sums(arch, place.name)

        return read

    def _part_sums(self, arch: ArchSpec, name: str) -> Floats:
        """[2 P + 2] of the part of that name, or of all that are no blocks where it is empty."""
        found = np.zeros(self.table.num_sums)
        for part, slot, spec, context in parts(arch):
            if part == name or (not name and slot != "block"):
                found += self.table.part(slot, spec, context, arch.position)
        return found


class _Place:
    """A block, or with no stage everything else, and the genes that decide what it costs."""

    def __init__(self, name: str, stage: int | None, index: int, genes: Sequence[int]) -> None:
        self.name, self.stage, self.index, self.genes = name, stage, index, tuple(dict.fromkeys(genes))


class _Known:
    """The sums of what was seen, sorted by code."""

    def __init__(self, num_sums: int) -> None:
        self.codes, self.sums = np.array([UNUSED]), np.zeros((1, num_sums))

    def rows(self, genomes: Genomes, codes: Codes, read: Callable[[NDArray[np.int64]], Floats]) -> Floats:
        where = np.searchsorted(self.codes, codes)
        missing = np.flatnonzero(self.codes[np.minimum(where, len(self.codes) - 1)] != codes)
        if len(missing):
            new, first = np.unique(codes[missing], return_index=True)
            sums = np.array([read(genomes[i]) for i in missing[first]])
            together = np.concatenate([self.codes, new])
            order = np.argsort(together)
            self.codes, self.sums = together[order], np.concatenate([self.sums, sums])[order]
            where = np.searchsorted(self.codes, codes)
        return self.sums[where]


def _places(encoding: Encoding) -> list[_Place]:
    around = [encoding._d_model, *encoding._position.indices()]
    found, layer = [], 0
    for number, stage in enumerate(encoding._stages):
        around = [*around, stage.width_ratio, *stage.enter.indices()]
        for index, block in enumerate(stage.blocks):
            found.append(_Place(f"blocks.{layer}", number, index, [*around, *block.indices()]))
            layer += 1
        around = [*around, *stage.leave.indices()]
    return [_Place("", None, 0, [*around, *encoding._final_norm.indices()]), *found]
