"""OPTIN trajectory: how much removing one block changes all later blocks and the logits, averaged over blocks.

    I(l) = sum over later blocks j of MD(F_j, F_j without l) + T^2 KL(softmax(z / T) || softmax(z' / T))        T = 4

MD is the mean squared difference of the Gram matrices of the unit-length tokens; for the last block, its own output is
compared. Khaki and Plataniotis, "The Need for Speed: Pruning Transformers with One Recipe", arXiv:2403.17921, remove
one head or neuron at a time for pruning; removing blocks needs only one forward pass per block. Their rescaling of KL
by powers of ten is left out, and all tokens are used, so that the result does not depend on sampled rows.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from proxies.recording import BLOCK, forward
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable, finite_model

TEMPERATURE = 4.0


def optin_trajectory(subject: Subject) -> float:
    """Return the score. Raises Unscorable where the network has no blocks."""
    blocks = [n for n, _ in subject.once(finite_model).named_modules() if BLOCK.fullmatch(n)]
    if not blocks:
        raise Unscorable("no blocks")
    streams, logits = trajectory(subject)
    total = 0.0
    for index, left_out in enumerate(blocks):
        other_streams, other_logits = trajectory(subject, left_out)
        for name in blocks[index + 1 :] or blocks[-1:]:
            pairs = zip(streams[name], other_streams[name], strict=True)
            total += sum(manifold_distance(x, other) for x, other in pairs)
        total += divergence(logits, other_logits)
    return total / len(blocks)


@torch.no_grad()
def trajectory(subject: Subject, left_out: str | None = None) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Return (outputs [B, T, D] of each run by block, logits); the block `left_out` returns its input."""
    streams: dict[str, list[Tensor]] = {}
    with ExitStack() as hooks:
        for name, module in subject.model.named_modules():
            if name == left_out:
                hooks.enter_context(module.register_forward_hook(lambda _, x, output: (x[0], output[1])))
            if BLOCK.fullmatch(name):
                hooks.enter_context(_keep(module, streams.setdefault(name, [])))
        return streams, forward(subject)


def _keep(module: torch.nn.Module, runs: list[Tensor]) -> RemovableHandle:
    return module.register_forward_hook(lambda _, inputs, output: runs.append(output[0]))


def manifold_distance(x: Tensor, other: Tensor) -> float:
    """Return the mean over token pairs of (x_i . x_j - x'_i . x'_j)^2, for x and `other` [B, T, D].

    Uses D x D products instead of the Gram matrices.
    """
    x, other = (F.normalize(t.flatten(0, -2), dim=-1) for t in (x, other))
    squares = [(a.mT @ b).double().square().sum().item() for a, b in ((x, x), (other, other), (x, other))]
    return max(0.0, squares[0] + squares[1] - 2 * squares[2]) / len(x) ** 2


def divergence(logits: Tensor, other: Tensor) -> float:
    """Return T^2 KL of the tempered distributions of `logits` and `other` [B, T, W], averaged over predictions."""
    of, to = ((z / TEMPERATURE).flatten(0, -2).log_softmax(-1).double() for z in (logits, other))
    return TEMPERATURE**2 * (of.exp() * (of - to)).sum(-1).mean().item()


PROXY = Proxy(
    name="optin_trajectory",
    paper="Khaki and Plataniotis 2024, arXiv:2403.17921",
    needs="batch",
    score=optin_trajectory,
)
