"""Copying after a few steps: a sequence, then blanks in which it has to be said again.

The score is the loss, in nats. See proxies.synthetic for the training.
"""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from proxies.synthetic import copying, trained_loss


def mad_copying(subject: Subject) -> float:
    return trained_loss(subject, copying)


PROXY = Proxy(
    name="mad_copying", paper="Poli et al. 2024, arXiv:2403.17844", needs="nothing", score=mad_copying
)
