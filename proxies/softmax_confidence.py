"""Softmax confidence: sum over mixers of the mean over heads and queries of the largest attention weight.

Serianni and Kalita, arXiv:2306.00288, after Voita et al., arXiv:1905.09418. Attention maps are softmaxes over tokens
and the outputs of normalizers. Mixers without a map (linear attention, recurrences, convolutions) contribute nothing,
and a network without any map has no score.
"""

from __future__ import annotations

from proxies.recording import recording
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable


def softmax_confidence(subject: Subject) -> float:
    """Return the score. Raises Unscorable where the network has no attention maps."""
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
