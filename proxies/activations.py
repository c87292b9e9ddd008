"""Activation patterns: for each token, which units are above zero."""

from __future__ import annotations

from torch import Tensor

from proxies.recording import recording
from proxies.subject import Subject, Unscorable


def activation_patterns(subject: Subject) -> list[Tensor]:
    """Return one float tensor [B, T, units] per layer, 1 where the unit is above zero, else 0.

    The units are the inputs of the ffns' down projections, or the outputs of mixers and ffns in a network without any.
    Raises Unscorable where there are no mixers and ffns either.
    """
    assert subject.batch is not None
    found, B = subject.once(recording), len(subject.batch.inputs)
    hidden = [use.x for use in found.uses if use.module.role == "down" and use.x.shape[0] % B == 0]
    hidden = hidden or [y.detach() for _, y in found.branches]
    if not hidden:
        raise Unscorable("no mixer and no ffn")
    return [(a > 0).reshape(B, -1, a.shape[-1]).float() for a in hidden]
