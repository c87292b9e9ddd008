"""Jacobian covariance: the spectrum score of the correlations between the examples' input gradients.

Mellor et al., "Neural Architecture Search without Training", arXiv:2006.04647v1. The gradient is that of the sum of
an example's logits with respect to the stem's output.
"""

from __future__ import annotations

from proxies.correlation import correlation, spectrum_score
from proxies.gradients import sum_pass
from proxies.registry import Proxy
from proxies.subject import Subject


def jacobian_covariance(subject: Subject) -> float:
    return spectrum_score(correlation(subject.once(sum_pass).embedded.flatten(1)))


PROXY = Proxy(
    name="jacobian_covariance",
    paper="Mellor et al. 2020, arXiv:2006.04647v1",
    needs="batch",
    score=jacobian_covariance,
)
