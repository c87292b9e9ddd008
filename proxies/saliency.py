"""Saliency: sum over weight matrices of |w dS/dw|, S the sum of the logits.

Of the ffns it is synaptic saliency: Zhou et al., "Training-free Transformer Architecture Search", arXiv:2203.12217. Of
the mixers it is head importance: Serianni and Kalita, "Training-free Neural Architecture Search for RNNs and
Transformers", arXiv:2306.00288, after Michel et al., arXiv:1905.10650. The heads of a mixer are the rows of its
matrices, so the sum needs no head and takes every mixer that has a matrix. Matrices narrower than 128, which the
published form leaves out, count.
"""

from __future__ import annotations

from proxies.gradients import matrices, sum_pass
from proxies.registry import Proxy
from proxies.subject import Subject


def saliency(subject: Subject, slot: str) -> float:
    found = matrices(subject, subject.once(sum_pass), slot)
    return sum((w * g).abs().double().sum().item() for w, g in found)


SYNAPTIC_SALIENCY = Proxy(
    name="synaptic_saliency",
    paper="Zhou et al. 2022, arXiv:2203.12217",
    needs="batch",
    score=lambda subject: saliency(subject, "ffn"),
)
HEAD_IMPORTANCE = Proxy(
    name="head_importance",
    paper="Serianni and Kalita 2023, arXiv:2306.00288",
    needs="batch",
    score=lambda subject: saliency(subject, "mixer"),
)
