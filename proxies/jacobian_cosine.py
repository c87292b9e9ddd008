"""Jacobian cosine: 1 - 1 / (2 (N^2 - N)) sum over pairs of examples of |cos|^(1/20), cos between their input gradients.

Celotti et al., "Improving Zero-Shot Neural Architecture Search with Parameters Scoring", 2020, as in Serianni and
Kalita, arXiv:2306.00288. The gradients are those of Jacobian covariance; the score is 1/2 where all are parallel and 1
where all are orthogonal.
"""

from __future__ import annotations

from torch import Tensor

from proxies.correlation import cosines
from proxies.gradients import sum_pass
from proxies.registry import Proxy
from proxies.subject import Subject


def cosine_score(rows: Tensor) -> float:
    """Return the score of input gradients, one example per row of `rows` [N, M]."""
    matrix = cosines(rows)
    N = len(matrix)
    others = matrix.abs().fill_diagonal_(0.0).pow(1 / 20).sum().item()
    return 1 - others / (2 * (N * N - N))


def jacobian_cosine(subject: Subject) -> float:
    return cosine_score(subject.once(sum_pass).embedded.flatten(1))


PROXY = Proxy(
    name="jacobian_cosine",
    paper="Celotti et al. 2020; Serianni and Kalita 2023, arXiv:2306.00288",
    needs="batch",
    score=jacobian_cosine,
)
