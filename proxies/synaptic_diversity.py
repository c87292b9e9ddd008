"""Synaptic diversity: sum over the mixers' weight matrices of ||W||_* ||dS/dW||_*, nuclear norms.

Zhou et al., "Training-free Transformer Architecture Search", arXiv:2203.12217. S is the sum of the logits. Mixers that
parameterise their maps in another way (token attention, tables) are not comparable with those of dense matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxies.gradients import matrices, sum_pass
from proxies.registry import Proxy
from proxies.subject import Subject


def nuclear_norm(matrix: Tensor) -> float:
    """Return the nuclear norm of a `matrix` [n, m].

    It uses eigenvalues of the smaller Gram matrix, which are several times faster than singular values.
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
