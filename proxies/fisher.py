"""Fisher: sum over channels c of 1 / (2 B) sum over examples b of (sum over tokens t of a_btc dL_b/da_btc)^2.

Turner et al., "BlockSwap", arXiv:1906.04113. The activations a are the outputs of every mixer and ffn; L_b is the loss
of example b.
"""

from __future__ import annotations

from proxies.gradients import loss_pass
from proxies.recording import recording
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable


def fisher(subject: Subject) -> float:
    """Return the score. Raises Unscorable where the network has no mixer and no ffn."""
    assert subject.batch is not None
    B, total = len(subject.batch.inputs), 0.0
    branches = subject.once(recording).branches
    if not branches:
        raise Unscorable("no mixer and no ffn")
    for (_, a), gradient in zip(branches, subject.once(loss_pass).branches, strict=True):
        effect = (a.detach() * gradient).reshape(B, -1, a.shape[-1]).sum(1)  # of the mean: L_b / B
        total += B / 2 * effect.double().square().sum().item()
    return total


PROXY = Proxy(name="fisher", paper="Turner et al. 2020, arXiv:1906.04113", needs="batch", score=fisher)
