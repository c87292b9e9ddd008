"""A latency model fitted to a handful of measured networks, optionally starting from another device's latencies.

A fit is a ridge regression whose residuals are relative errors, in one of two forms over features of a network:

    additive    t = s(x) theta + w^T x               time is a sum of terms
    factor      log t = log s(x) + theta + w^T log x   time is a product of powers

s(x) is the source device's prediction, or 1 without a source. A third form, residual, adds the source's measured
deviation from its prediction to the features of the factor form. Errors may have heavy tails (an interrupted
measurement, a clock speed that changed for an hour), so each form is fitted twice: plainly, and with samples weighted
by Student's t of their left-out error. Forms, sources and penalties are averaged, not selected, with weights that fall
steeply with the left-out errors, which a ridge has in closed form: among many fits to twenty samples, the best is often
the luckiest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FORMS = ("additive", "factor", "residual")
PENALTIES = tuple(10.0**power for power in range(-5, 3))
DEGREES_OF_FREEDOM = 3.0
REWEIGHTINGS = 3
FREE = 1e4  # prior variance of the unpenalised coefficient
SHARPNESS = 5.0  # of the average: twice the left-out error means a 32nd of the weight
SMALLEST_ERROR = 1e-4
SMALLEST_SHARE = 1e-3
CAP = 2.0
SIMPLICITY = 2.0
RESIDUAL_SCALE = 0.1  # a source error of a tenth counts like a feature one standard deviation from its mean


@dataclass(frozen=True)
class Features:
    """Features of n networks: `terms` [n, F] add up to a time, exponentials of `factors` [n, G] multiply to one."""

    terms: Floats
    factors: Floats

    def __getitem__(self, rows: Any) -> Features:
        return Features(self.terms[rows], self.factors[rows])


@dataclass(frozen=True)
class Source:
    """Another device's data on n networks: predicted `log_ms` [n], `residual` [n] = log measured - log_ms."""

    log_ms: Floats
    residual: Floats

    def __getitem__(self, rows: Any) -> Source:
        return Source(self.log_ms[rows], self.residual[rows])


@dataclass(frozen=True)
class Ridge:
    """A linear model with weights [F] of standardised features, an unpenalised term, and its left-out errors [k]."""

    form: str
    source: str
    mean: Floats
    scale: Floats
    weights: Floats
    free: float
    left_out: Floats

    def log_ms(self, features: Features, sources: Mapping[str, Source]) -> Floats:
        """Return predicted log latencies [n], in log ms, of the n networks of `features` and `sources`."""
        source = sources.get(self.source)
        Z = (_columns(self.form, features, source) - self.mean) / self.scale
        base = np.zeros(len(Z)) if source is None else source.log_ms
        if self.form != "additive":
            return base + self.free + Z @ self.weights
        value = np.exp(base) * self.free + Z @ self.weights
        return np.log(np.maximum(value, 1e-3 * np.median(value)))


@dataclass(frozen=True)
class FewShot:
    """A weighted average of ridges, largest share first; `left_out` [k] are the log errors of left-out samples."""

    ridges: tuple[Ridge, ...]
    shares: tuple[float, ...]
    left_out: Floats

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(ridge.source for ridge in self.ridges))

    def log_ms(self, features: Features, sources: Mapping[str, Source]) -> Floats:
        """Return predicted log latencies [n], in log ms, of the n networks of `features` and `sources`."""
        found = [s * r.log_ms(features, sources) for s, r in zip(self.shares, self.ridges, strict=True)]
        return np.sum(found, axis=0)


def fit(features: Features, ms: Floats, sources: Mapping[str, Source] | None = None) -> FewShot:
    """Fit latencies `ms` [k] of k measured networks; `features` and `sources` describe the same k networks."""
    families = [
        _family(features, ms, form, name, source)
        for name, source in [("", None), *(sources or {}).items()]
        for form in FORMS
        if form != "residual" or (source is not None and source.residual.any())
    ]
    errors = np.array([family.errors() for family in families])  # [families, Q]
    strengths = (errors.min() / errors) ** SHARPNESS
    shares = strengths.sum(1) / strengths.sum()
    order = [i for i in np.argsort(-shares) if shares[i] >= SMALLEST_SHARE]
    ridges = [families[i].averaged(strengths[i] / strengths[i].sum()) for i in order]
    shares = shares[order] / shares[order].sum()
    left_out = shares @ np.array([ridge.left_out for ridge in ridges])
    return FewShot(tuple(ridges), tuple(shares.tolist()), left_out)


@dataclass(frozen=True)
class _Family:
    """Q fits of one form to one source: plain and robust for each penalty. weights [Q, F], left_out [Q, k]."""

    form: str
    source: str
    mean: Floats
    scale: Floats
    weights: Floats
    free: Floats
    left_out: Floats
    freedom: Floats

    def errors(self) -> Floats:
        """Left-out errors [Q], increased by the share of the samples' degrees of freedom that a fit uses."""
        found: Floats = np.maximum(_error(self.left_out), SMALLEST_ERROR) * (1 + self.freedom) ** SIMPLICITY
        return found

    def averaged(self, shares: Floats) -> Ridge:
        """The weighted average of the fits as one model, since an average of linear models is linear."""
        free = float(shares @ self.free)
        return Ridge(
            self.form, self.source, self.mean, self.scale, shares @ self.weights, free, shares @ self.left_out
        )


def _columns(form: str, features: Features, source: Source | None) -> Floats:
    if source is None:
        return features.terms if form == "additive" else features.factors
    if form == "additive":
        return np.column_stack([features.terms, np.ones(len(features.terms))])
    return np.column_stack([features.factors, source.residual]) if form == "residual" else features.factors


def _family(features: Features, ms: Floats, form: str, name: str, source: Source | None) -> _Family:
    X = _columns(form, features, source)
    mean, scale = X.mean(0), X.std(0)
    scale[scale < 1e-9 * (1 + np.abs(mean))] = 1.0
    if form == "residual":
        scale[-1] = RESIDUAL_SCALE
    if form == "additive" and source is not None:
        mean[-1] = 0.0  # a constant time that the source does not include
    Z = (X - mean) / scale
    base = np.zeros(len(ms)) if source is None else source.log_ms
    if form == "additive":  # divided by the measured time, which makes residuals relative
        free, target, unit = np.exp(base) / ms, np.ones(len(ms)), ms.mean()
        Z, free_unit = Z * (unit / ms)[:, None], 1 / free.mean()
    else:
        free, target, unit, free_unit = np.ones(len(ms)), np.log(ms) - base, 1.0, 1.0
    solved = [_solve(Z, free * free_unit, target, again) for again in (0, REWEIGHTINGS)]
    dual, left_out, freedom = (np.concatenate(found) for found in zip(*solved, strict=True))  # [Q, k], [Q]
    return _Family(
        form,
        name,
        mean,
        scale,
        weights=dual @ Z / np.tile(PENALTIES, 2)[:, None] * unit,
        free=FREE * free_unit * free_unit * (dual @ free),
        left_out=left_out,
        freedom=freedom,
    )


def _solve(Z: Floats, free: Floats, target: Floats, reweightings: int) -> tuple[Floats, Floats, Floats]:
    """Return (dual coefficients [P, k], left-out residuals [P, k], degrees of freedom / k [P]) of P penalties."""
    kernel = Z @ Z.T / np.array(PENALTIES)[:, None, None] + FREE * np.outer(free, free)  # [P, k, k]
    weights = np.ones((len(PENALTIES), len(target)))
    for again in range(reweightings + 1):
        inverse = np.linalg.inv(kernel + (1 / weights)[:, :, None] * np.eye(len(target)))
        dual = inverse @ target
        left_out = dual / np.diagonal(inverse, axis1=1, axis2=2)
        if again < reweightings:
            far = left_out / _spread(left_out)
            weights = np.maximum((DEGREES_OF_FREEDOM + 1) / (DEGREES_OF_FREEDOM + far**2), 0.02)
            weights /= weights.max(-1, keepdims=True)
    noise = np.diagonal(inverse, axis1=1, axis2=2) / weights
    return dual, left_out, 1 - noise.mean(-1)


def _spread(residuals: Floats) -> Floats:
    """Robust scale [..., 1] of residuals [..., k], insensitive to a few outliers."""
    found: Floats = 1.4826 * np.median(np.abs(residuals), axis=-1, keepdims=True) + SMALLEST_ERROR
    return found


def _error(residuals: Floats) -> Floats:
    """Mean absolute residual [...], each clipped at CAP typical residuals so that the majority decides."""
    found: Floats = np.minimum(np.abs(residuals), CAP * _spread(residuals)).mean(-1)
    return found
