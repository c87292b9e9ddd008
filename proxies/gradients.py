"""The backward passes that proxies share: of the loss and of the sum of outputs, both after one forward pass.

They give gradients of all weights and of the recorded activations, from which gradients of single examples follow
without further passes: for a dense projection y = W x, example b has dW_b = sum over its tokens of dy x^T.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proxies.batch import Batch
from proxies.recording import recording
from proxies.subject import Subject, Unscorable


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a scalar: `weights` by parameter name, `uses` and `branches` in recorded order; 0 where unused."""

    weights: dict[str, Tensor]
    uses: tuple[Tensor, ...]
    branches: tuple[Tensor, ...]
    embedded: Tensor


def loss_pass(subject: Subject) -> Gradients:
    """Return the gradients of the batch's mean cross entropy in nats."""
    assert subject.batch is not None
    return _gradients(subject, cross_entropy(subject.once(recording).logits, subject.batch))


def sum_pass(subject: Subject) -> Gradients:
    """Return the gradients of S, the sum of all logits, which needs no labels.

    Published forms sum the last hidden state, whose sum is 0 after a final layer norm.
    """
    return _gradients(subject, subject.once(recording).logits.sum())


def loss_gradients(subject: Subject) -> dict[str, Tensor]:
    """Return the gradients of the loss by parameter name, each [...] with the shape of its parameter."""
    return subject.once(loss_pass).weights


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean over predictions, in nats, of `logits` [B, ..., W]. Raises Unscorable where it is not finite."""
    if batch.valid is not None:
        loss = F.cross_entropy(logits[batch.valid], batch.targets[batch.valid])
    else:
        loss = F.cross_entropy(logits.flatten(0, -2), batch.targets.flatten())
    if not loss.isfinite():
        raise Unscorable(f"the loss is {loss.item()}")
    return loss


def _gradients(subject: Subject, number: Tensor) -> Gradients:
    found = subject.once(recording)
    names, weights = zip(*subject.model.named_parameters(), strict=True)
    kept = [use.y for use in found.uses] + [y for _, y in found.branches] + [found.embedded]
    wanted = [t for t in (*weights, *kept) if t.requires_grad]
    some = torch.autograd.grad(number, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    by_id = dict(zip(map(id, wanted), some, strict=True))
    of = [by_id[id(t)] if id(t) in by_id else torch.zeros_like(t) for t in (*weights, *kept)]
    first, second = len(weights), len(weights) + len(found.uses)
    return Gradients(
        dict(zip(names, of[:first], strict=True)), tuple(of[first:second]), tuple(of[second:-1]), of[-1]
    )


def matrices(subject: Subject, gradients: Gradients, *slots: str) -> list[tuple[Tensor, Tensor]]:
    """Return (W [n, m], dW [n, m]) of every matrix in these slots of the blocks. Raises Unscorable without any."""
    found = [
        (weight.detach(), gradients.weights[name])
        for name, weight in subject.model.named_parameters()
        if name.startswith("blocks.") and name.split(".")[2] in slots and weight.dim() == 2
    ]
    if not found:
        raise Unscorable(f"no {' or '.join(slots)} has a weight matrix")
    return found


def example_gradients(subject: Subject, gradients: Gradients) -> Iterator[Tensor]:
    """Yield, for each dense projection, the per-example gradients [B, out, in], which the caller may modify.

    Raises Unscorable where no dense projection has the examples in its first axis.
    """
    assert subject.batch is not None
    B = len(subject.batch.inputs)
    runs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for use, dy in zip(subject.once(recording).uses, gradients.uses, strict=True):
        if use.module.kind == "dense" and use.x.shape[0] % B == 0:
            pair = dy.reshape(B, -1, dy.shape[-1]), use.x.reshape(B, -1, use.x.shape[-1])
            runs.setdefault(use.name, []).append(pair)
    if not runs:
        raise Unscorable("no dense projection sees the examples")
    for pairs in runs.values():
        total = pairs[0][0].mT @ pairs[0][1]
        for dy, x in pairs[1:]:
            total += dy.mT @ x
        yield total
