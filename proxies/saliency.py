"""Saliency: sum over weight matrices of |w dS/dw|, S the sum of the logits.

Over the ffns it is synaptic saliency: Zhou et al., "Training-free Transformer Architecture Search", arXiv:2203.12217.
Over the mixers it is head importance: Serianni and Kalita, "Training-free Neural Architecture Search for RNNs and
Transformers", arXiv:2306.00288, after Michel et al., arXiv:1905.10650. The heads of a mixer are rows of its matrices,
so the sum over heads is a sum over matrices and is defined for every mixer with a matrix. Unlike in the published form,
matrices narrower than 128 are included.
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
