"""SNIP: sum over weights of |w dL/dw|, the first-order change of the loss as each weight is removed.

Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv:1810.02340. All parameters count.
"""

from __future__ import annotations

from proxies.gradients import loss_gradients
from proxies.registry import Proxy
from proxies.subject import Subject


def snip(subject: Subject) -> float:
    gradients = subject.once(loss_gradients)
    weights = subject.model.named_parameters()
    return sum((w.detach() * gradients[name]).abs().double().sum().item() for name, w in weights)


PROXY = Proxy(name="snip", paper="Lee et al. 2019, arXiv:1810.02340", needs="batch", score=snip)
