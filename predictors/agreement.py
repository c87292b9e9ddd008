"""Rank correlations of two lists of numbers: Spearman's rho and Kendall's tau-b."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ranks(values: ArrayLike) -> Floats:
    """Return the ranks [n] of `values` [n], from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2)[inverse]
    return shared


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation of a [n] and b [n]; nan where one of them is constant."""
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Return Kendall's tau-b of a [n] and b [n]; nan where one of them is constant."""
    x, y = (np.sign(np.subtract.outer(v, v)) for v in (np.asarray(a, float), np.asarray(b, float)))
    scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / scale if scale else math.nan
