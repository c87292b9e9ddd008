"""NASWOT: log |det K|, where K_ab counts the units whose activation pattern is equal in examples a and b.

Mellor et al., "Neural Architecture Search without Training", arXiv:2006.04647. With codes x of 0 and 1,
K = x x^T + (1 - x)(1 - x)^T, summed over units and tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxies.activations import activation_patterns
from proxies.registry import Proxy
from proxies.subject import Subject


def agreement(x: Tensor) -> Tensor:
    """Return K [B, B] in float64 of codes [B, units]; (1 - x)(1 - x)^T is derived from x x^T and the row sums."""
    both, ones = (x @ x.mT).double(), x.sum(1, dtype=torch.float64)
    return 2 * both + x.shape[1] - ones[:, None] - ones[None, :]


def naswot(subject: Subject) -> float:
    kernel = torch.stack([agreement(x.flatten(1)) for x in subject.once(activation_patterns)]).sum(0)
    return torch.linalg.slogdet(kernel).logabsdet.item()


PROXY = Proxy(name="naswot", paper="Mellor et al. 2021, arXiv:2006.04647", needs="batch", score=naswot)
