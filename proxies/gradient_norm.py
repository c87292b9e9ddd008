"""Gradient norm: sum over parameter tensors p of ||dL/dp||_2, L the loss of one batch at initialisation.

Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", arXiv:2101.08134.
"""

from __future__ import annotations

from proxies.gradients import loss_gradients
from proxies.registry import Proxy
from proxies.subject import Subject


def gradient_norm(subject: Subject) -> float:
    gradients = subject.once(loss_gradients).values()
    return sum(gradient.double().norm().item() for gradient in gradients)


PROXY = Proxy(
    name="gradient_norm",
    paper="Abdelfattah et al. 2021, arXiv:2101.08134",
    needs="batch",
    score=gradient_norm,
)
