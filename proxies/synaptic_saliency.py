"""Synaptic saliency: sum over the ffns' weight matrices of |w dS/dw|, S the sum of the logits.

Zhou et al., "Training-free Transformer Architecture Search", arXiv:2203.12217.
"""

from __future__ import annotations

from proxies.gradients import matrices, sum_pass
from proxies.registry import Proxy
from proxies.subject import Subject


def saliency(subject: Subject, slot: str) -> float:
    found = matrices(subject, subject.once(sum_pass), slot)
    return sum((w * g).abs().double().sum().item() for w, g in found)


def synaptic_saliency(subject: Subject) -> float:
    return saliency(subject, "ffn")


PROXY = Proxy(
    name="synaptic_saliency",
    paper="Zhou et al. 2022, arXiv:2203.12217",
    needs="batch",
    score=synaptic_saliency,
)
