"""Synaptic diversity: sum over the mixers' weight matrices of ||W||_* ||dS/dW||_*, nuclear norms.

Zhou et al., "Training-free Transformer Architecture Search", arXiv:2203.12217. S is the sum of the logits. Matrices of
mixers that parameterise their maps in other ways (token attention, tables) are not comparable with dense ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxies.gradients import matrices, sum_pass
from proxies.registry import Proxy
from proxies.subject import Subject


def nuclear_norm(matrix: Tensor) -> float:
    """By the eigenvalues of the smaller Gram matrix, several times faster than singular values.

    Of a `matrix` [n, m].
    """
    wide = matrix.double()
    gram = wide @ wide.mT if wide.shape[0] <= wide.shape[1] else wide.mT @ wide
    return torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt().sum().item()


def synaptic_diversity(subject: Subject) -> float:
    found = matrices(subject, subject.once(sum_pass), "mixer")
    return sum(nuclear_norm(w) * nuclear_norm(g) for w, g in found)


PROXY = Proxy(
    name="synaptic_diversity",
    paper="Zhou et al. 2022, arXiv:2203.12217",
    needs="batch",
    score=synaptic_diversity,
)
