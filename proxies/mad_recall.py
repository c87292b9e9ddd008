"""Associative recall after a few steps: pairs of keys and values, then keys whose values are asked.

The score is the loss, in nats. See proxies.synthetic for the training.
"""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from proxies.synthetic import recall, trained_loss


def mad_recall(subject: Subject) -> float:
    return trained_loss(subject, recall)


PROXY = Proxy(
    name="mad_recall", paper="Poli et al. 2024, arXiv:2403.17844", needs="nothing", score=mad_recall
)
