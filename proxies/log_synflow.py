"""Log-SynFlow: sum over weights of |w| log(1 + |dR/dw|), so that no layer's gradient dominates.

Cavagnero et al., "FreeREA: Training-Free Evolution-based Architecture Search", arXiv:2207.05135. R, the weights and
the treatment of norms are those of SynFlow.
"""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from proxies.synflow import synaptic_flow


def log_synflow(subject: Subject) -> float:
    return sum((w * gradient.abs().log1p()).sum().item() for w, gradient in subject.once(synaptic_flow))


PROXY = Proxy(
    name="log_synflow",
    paper="Cavagnero et al. 2022, arXiv:2207.05135",
    needs="nothing",
    score=log_synflow,
)
