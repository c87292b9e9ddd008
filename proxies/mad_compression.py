"""Compression after a few steps: every token has to be told from the last one's vector.

The score is the loss, in nats. See proxies.synthetic for the training.
"""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from proxies.synthetic import compression, last_token_signed, trained_loss


def mad_compression(subject: Subject) -> float:
    return trained_loss(subject, compression, last_token_signed)


PROXY = Proxy(
    name="mad_compression", paper="Poli et al. 2024, arXiv:2403.17844", needs="nothing", score=mad_compression
)
