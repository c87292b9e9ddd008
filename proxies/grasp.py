"""GraSP: -w^T H g with g = dL/dw and H the Hessian of L, summed over all weights.

Since w^T H g is the slope of ||g||^2 / 2 as all weights are scaled up together, H g is approximated by a second
gradient at (1 + t) w. That works for every operator, whereas some kernels have no second derivative:

    -w^T H g ~ -g . (g((1 + t) w) - g) / t        t = 1e-3

Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", arXiv:2002.07376.
"""

from __future__ import annotations

import torch

from proxies.gradients import cross_entropy, loss_gradients
from proxies.registry import Proxy
from proxies.subject import Subject

STEP = 1e-3


def grasp(subject: Subject) -> float:
    assert subject.batch is not None
    gradients = subject.once(loss_gradients)
    moved = {n: (w.detach() * (1 + STEP)).requires_grad_() for n, w in subject.model.named_parameters()}
    logits, _ = torch.func.functional_call(subject.model, moved, (subject.batch.inputs,))
    loss = cross_entropy(logits, subject.batch)
    others = torch.autograd.grad(loss, list(moved.values()), allow_unused=True, materialize_grads=True)
    before = gradients.values()
    slopes = ((g * (other - g)).double().sum().item() for g, other in zip(before, others, strict=True))
    return -sum(slopes) / STEP


PROXY = Proxy(name="grasp", paper="Wang et al. 2020, arXiv:2002.07376", needs="batch", score=grasp)
