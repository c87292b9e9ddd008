"""Softmax confidence: sum over mixers of the mean over heads and queries of the largest attention weight.

Serianni and Kalita, arXiv:2306.00288, after Voita et al., arXiv:1905.09418. Attention maps are the softmaxes over
tokens and the outputs of normalizers; mixers without one (linear attention, recurrences, convolutions) add nothing, and
a network without any has no value.
"""

from __future__ import annotations

from proxies.recording import recording
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable


def softmax_confidence(subject: Subject) -> float:
    peaks = subject.once(recording).peaks
    if not peaks:
        raise Unscorable("no attention maps")
    return sum(sum(of_mixer) / len(of_mixer) for of_mixer in peaks.values())


PROXY = Proxy(
    name="softmax_confidence",
    paper="Serianni and Kalita 2023, arXiv:2306.00288",
    needs="batch",
    score=softmax_confidence,
)
