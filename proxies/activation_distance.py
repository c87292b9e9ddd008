"""Activation distance for transformers: how many units agree, summed over layers and all pairs of tokens.

Serianni and Kalita, arXiv:2306.00288: the sum of all entries of K = x x^T + (1 - x)(1 - x)^T, where the rows of x are
the tokens of one example. They use the first example; this is the mean over all, independent of their order.
"""

from __future__ import annotations

import torch

from proxies.activations import activation_patterns
from proxies.registry import Proxy
from proxies.subject import Subject


def activation_distance(subject: Subject) -> float:
    total = 0.0
    for x in subject.once(activation_patterns):
        ones = x.sum(1, dtype=torch.float64)  # [B, units], number of tokens above zero
        total += (ones.square() + (x.shape[1] - ones).square()).sum(1).mean().item()
    return total


PROXY = Proxy(
    name="activation_distance",
    paper="Serianni and Kalita 2023, arXiv:2306.00288",
    needs="batch",
    score=activation_distance,
)
