"""NTK condition: largest over smallest eigenvalue of K_ab = J_a . J_b, J_b the gradient of example b's sum of logits.

Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours", arXiv:2102.11535. The gradients are those of
every dense projection applied to the examples, including the readout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxies.gradients import example_gradients, sum_pass
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable


def tangent_kernel(subject: Subject) -> Tensor:
    """Return K [B, B] in float64."""
    gradients = (g.flatten(1) for g in example_gradients(subject, subject.once(sum_pass)))
    return sum((g @ g.mT).double() for g in gradients)  # type: ignore[return-value]


def ntk_condition(subject: Subject) -> float:
    """Return the score. Raises Unscorable where the kernel is singular."""
    values = torch.linalg.eigvalsh(tangent_kernel(subject))
    smallest, largest = values[0].item(), values[-1].item()
    if smallest <= 0:
        raise Unscorable("the tangent kernel is singular")
    return largest / smallest


PROXY = Proxy(
    name="ntk_condition", paper="Chen et al. 2021, arXiv:2102.11535", needs="batch", score=ntk_condition
)
