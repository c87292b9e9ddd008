"""Activation patterns: which units are above zero for which token."""

from __future__ import annotations

from torch import Tensor

from proxies.recording import recording
from proxies.subject import Subject, Unscorable


def activation_patterns(subject: Subject) -> list[Tensor]:
    """1 above zero, else 0, [B, T, units] for each layer.

    The units are what the down projections of the ffns read; in a network without any, what mixers and ffns return.
    """
    assert subject.batch is not None
    found, B = subject.once(recording), len(subject.batch.inputs)
    hidden = [use.x for use in found.uses if use.module.role == "down" and use.x.shape[0] % B == 0]
    hidden = hidden or [y.detach() for _, y in found.branches]
    if not hidden:
        raise Unscorable("no mixer and no ffn")
    return [(a > 0).reshape(B, -1, a.shape[-1]).float() for a in hidden]
