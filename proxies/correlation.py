"""Correlation matrices and the score of their spectrum, used for Jacobian and hidden covariance.

    score = - sum over eigenvalues l of (log(l + eps) + 1 / (l + eps))        eps = 1e-5

It is highest, -N, where N rows are uncorrelated. Mellor et al., "Neural Architecture Search without Training",
arXiv:2006.04647v1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxies.subject import Unscorable

EPS = 1e-5
NULL = 1e-9


def correlation(rows: Tensor) -> Tensor:
    """Return Pearson correlations [N, N] of rows [N, M] in float64; constant rows are left out.

    Raises Unscorable where fewer than two rows vary.
    """
    centred = rows.double() - rows.double().mean(1, keepdim=True)
    return _cosines(centred, "vary")


def cosines(rows: Tensor) -> Tensor:
    """Return cosines [N, N] between rows [N, M] in float64; rows of zeros are left out."""
    return _cosines(rows.double(), "are not zero")


def _cosines(rows: Tensor, condition: str) -> Tensor:
    length = rows.norm(dim=1, keepdim=True)
    kept = length.squeeze(1) > 0
    if kept.sum() < 2:
        raise Unscorable(f"fewer than two rows {condition}")
    unit = rows[kept] / length[kept]
    return unit @ unit.mT


def spectrum_score(matrix: Tensor, drop_null: bool = False) -> float:
    """Return the score of a symmetric `matrix` [n, n].

    `drop_null` leaves out null directions, such as the sum of centred channels.
    """
    values = torch.linalg.eigvalsh(matrix).clamp_min(0.0)
    if drop_null:
        values = values[values > NULL * len(values)]
    return -((values + EPS).log() + 1 / (values + EPS)).sum().item()
