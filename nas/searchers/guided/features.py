"""Features of a genome for predictors: its decisions, their sums over blocks, and products of these with the width.

Decisions of the same kind in different blocks form a family. Cost and quality depend on a family mostly through how
often each of its values occurs, and on these counts times the width; the decision in each single block explains what
they leave over. Features of decisions that are not in use are zero.
Shapes: n genomes, V genes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchspace.spec.genome import Encoding, Genomes, Variable

NUM_TYPICAL = 512  # random genomes whose mean and deviation standardize the features
_BLOCK = re.compile(r"\.blocks\.\d+\.")

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Described:
    """Standardized features, each [n, d] with its own d and rows of squared norm about 1.

    shape: decisions made once; sums: counts and sums over blocks; products: of these with the width; genes: each
    decision.
    """

    shape: Matrix
    sums: Matrix
    products: Matrix
    genes: Matrix

    @property
    def smooth(self) -> Matrix:
        """Shape and sums concatenated, [n, d], for distances."""
        return np.asarray(np.hstack([self.shape, self.sums]) * np.sqrt(0.5))

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Described:
        return Described(*(getattr(self, name)[rows] for name in _PARTS))


_PARTS = ("shape", "sums", "products", "genes")


class Features:
    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        variables = encoding.variables
        searched = [i for i, v in enumerate(variables) if len(v.values) > 1]
        self._columns = [(i, value) for i in searched for value in range(len(variables[i].values))]
        families = [[i for i in members if i in searched] for members in families_of(encoding)]
        # summed over blocks: members [n], and for each count or sum what each value adds
        self._families = [
            (np.array(members), _summands(variables[members[0]])) for members in families if len(members) > 1
        ]
        once = {members[0] for members in families if len(members) == 1}
        self._once = np.array([i in once for i, _ in self._columns], dtype=bool)
        self._numbers = [(i, _numbers(variables[i])) for i in sorted(once) if _is_ordered(variables[i])]
        self._width = next((i for i, v in enumerate(variables) if v.name == "d_model"), None)
        typical = self.raw(tied(encoding, NUM_TYPICAL, np.random.default_rng(0)))
        self._means = [x.mean(axis=0) for x in typical]
        self._kept = [x.std(axis=0) > 1e-9 for x in typical]
        self._scales = [
            x.std(axis=0)[k] * np.sqrt(max(1, k.sum())) for x, k in zip(typical, self._kept, strict=True)
        ]

    def __call__(self, genomes: Genomes) -> Described:
        raw = self.raw(genomes)
        parts = [
            (x - m)[:, k] / s for x, m, k, s in zip(raw, self._means, self._kept, self._scales, strict=True)
        ]
        return Described(*parts)

    def raw(self, genomes: Genomes) -> list[Matrix]:
        """Shape, sums, products and genes before they are standardized. genomes: canonical, [n, V]."""
        used = self.encoding.in_use(genomes)
        places = np.array([i for i, _ in self._columns], dtype=np.int64)
        values = np.array([v for _, v in self._columns], dtype=np.int64)
        genes = ((genomes[:, places] == values) & used[:, places]).astype(np.float64)
        sums = [np.zeros((len(genomes), 0))]
        for members, summands in self._families:
            table = np.vstack([summands, np.zeros(summands.shape[1])])  # the last row: not in use
            sums.append(table[np.where(used[:, members], genomes[:, members], -1)].sum(axis=1))
        numbers = [(scale[genomes[:, i]] * used[:, i])[:, None] for i, scale in self._numbers]
        counted = np.hstack(sums)
        factors = np.hstack([counted, genes[:, self._once], *numbers])
        products = np.zeros((len(genomes), 0))
        if self._width is not None:
            width = np.array(self.encoding.variables[self._width].values, dtype=np.float64)
            scaled = (width / width.max())[genomes[:, self._width]][:, None]
            products = np.hstack([scaled, scaled**2, scaled * factors, scaled**2 * factors])
        return [np.hstack([genes[:, self._once], *numbers]), counted, products, genes]


def families_of(encoding: Encoding) -> list[list[int]]:
    """Lists of indices of decisions that have the same kind and values and differ only in their block."""
    families: dict[tuple[str, str], list[int]] = {}
    for i, variable in enumerate(encoding.variables):
        kind = _BLOCK.sub(".blocks.*.", variable.name), repr(variable.values)
        families.setdefault(kind, []).append(i)
    return list(families.values())


def tied(encoding: Encoding, count: int, rng: np.random.Generator) -> Genomes:
    """Random canonical genomes [count, V] whose blocks resemble each other to various degrees.

    With independent decisions, sums over many blocks hardly vary. So each family of each genome first draws the
    probabilities of its values, from uniform to nearly always one value.
    """
    genomes = np.zeros((count, len(encoding)), dtype=np.int64)
    for members in families_of(encoding):
        num_values = len(encoding.variables[members[0]].values)
        concentration = 10.0 ** rng.uniform(-1.5, 1.0, size=(count, 1))
        weights = rng.standard_gamma(np.broadcast_to(concentration, (count, num_values))) + 1e-12
        bounds = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)[:, None, :-1]
        genomes[:, members] = (rng.random((count, len(members), 1)) > bounds).sum(axis=2)
    return encoding.canonical(genomes)


def _is_ordered(variable: Variable) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in variable.values)


def _numbers(variable: Variable) -> Matrix:
    """Values of an ordered variable as shares of the largest. Returns [num_values]."""
    values = np.array(variable.values, dtype=np.float64)
    return np.asarray(values / max(np.abs(values).max(), 1e-300))


def _summands(variable: Variable) -> Matrix:
    """[num_values, k]: one-hot columns that count each value, and the value itself where the variable is ordered."""
    counts = np.eye(len(variable.values))
    return np.column_stack([counts, _numbers(variable)]) if _is_ordered(variable) else counts
