"""ZiCo: sum over layers of log(sum over weights of E|g| / std|g|), over the gradients g of the single examples' losses.

Li et al., "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients", arXiv:2301.11300, use gradients of a
few batches, so that the score depends on how examples are batched; over examples it does not. Layers are the dense
projections; weights whose gradient does not vary are left out.
"""

from __future__ import annotations

import torch

from proxies.gradients import example_gradients, loss_pass
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable


def zico(subject: Subject) -> float:
    """Return the score. Raises Unscorable where no gradient varies over the examples."""
    layers = []
    for gradients in example_gradients(subject, subject.once(loss_pass)):
        sizes = gradients.flatten(
            1
        ).abs_()  # in place from here on: a pass over new memory costs more than the sums
        mean = sizes.mean(0)
        variance = sizes.sub_(mean).square_().mean(0)
        layers.append((mean * torch.where(variance > 0, variance, torch.inf).rsqrt()).double().sum())
    varying = [layer.log().item() for layer in layers if layer > 0]
    if not varying:
        raise Unscorable("no gradient varies over the examples")
    return sum(varying)


PROXY = Proxy(name="zico", paper="Li et al. 2023, arXiv:2301.11300", needs="batch", score=zico)
