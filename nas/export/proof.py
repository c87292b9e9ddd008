"""Checks that a written file computes what the network computes: on other lengths, with padding, step by step.

Logits are compared one sequence at a time and in their own precision, to save memory with a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas.errors import ArtifactError
from nas.export.graph import TOLERANCE, Graph, Run, padded
from searchspace.model import Model

DECODED = 64
BEYOND = 3  # additional tokens of the longest tested sequence, if the network accepts them


@dataclass(frozen=True)
class Proof:
    """The largest difference of outputs, the number of greedy steps, and of those where both chose the same token."""

    difference: float
    decoded: int = 0
    agreed: int = 0


@torch.inference_mode()
def proven(path: Path, model: Model, run: Run, inputs: Tensor, graph: Graph | None) -> Proof:
    """Compare `run` with `model` on inputs [N, T] or [N, C, H, W]; `graph` is the graph that the file was written from.

    Raises ArtifactError naming the file if outputs differ by more than the tolerance.
    """
    scale, difference = 1.0, 0.0
    for ours, theirs in _pairs(model, run, inputs, graph):
        scale = max(scale, float(ours.abs().max()))
        difference = max(difference, float((theirs - ours).abs().max()))
    if not difference <= TOLERANCE * scale:
        raise ArtifactError(f"{path}: outputs differ from the extracted network's by {difference:.3g}")
    length = graph.length if graph else None
    decoded, agreed = greedy_steps(path, model, run, inputs[:1], length, 2 * TOLERANCE * scale)
    return Proof(difference, decoded, agreed)


def _pairs(model: Model, run: Run, inputs: Tensor, graph: Graph | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs of the network and of the file: for the examples, for one alone, with other lengths and with padding."""
    for some in _examples(model, inputs, graph):
        theirs = run(some)
        for i in range(len(some)):
            yield model(some[i : i + 1])[0], theirs[i : i + 1]
    if graph is None or not graph.takes_mask:
        return
    mask = padded(inputs)
    theirs = run(inputs, mask)
    for i, count in enumerate(mask.sum(1).tolist()):
        ours = model(inputs[i : i + 1, :count])[0]  # the sequence alone, without padding
        yield ours, theirs[i : i + 1, :count] if ours.dim() == 3 else theirs[i : i + 1]


def _examples(model: Model, inputs: Tensor, graph: Graph | None) -> Iterator[Tensor]:
    yield inputs
    yield inputs[:1]
    if graph is None or graph.length is not None or inputs.is_floating_point():
        return
    T = inputs.shape[1]
    longer = torch.cat((inputs, inputs[:, :BEYOND]), 1)[:, : model.max_len]
    for length in sorted({1, 3, T // 2 + 1, longer.shape[1]} - {0, T}):
        yield longer[:2, :length].contiguous()


def greedy_steps(
    path: Path, model: Model, run: Run, inputs: Tensor, length: int | None, slack: float
) -> tuple[int, int]:
    """(greedy steps, steps where both choose the same token), from the first of inputs [N, T]; (0, 0) for no decoder.

    Decoding continues with the network's token. Raises ArtifactError if the network's logit of the file's token is
    lower by more than `slack`.
    """
    if not model.arch.is_causal:
        return 0, 0
    steps = min(DECODED, length or DECODED, model.arch.stem.get("max_len", DECODED))
    ids, agreed = inputs[:, :1], 0
    try:
        state = model.init_state(1)
    except ValueError:  # a transition that sees the whole sequence at once
        return 0, 0
    for step in range(steps):
        logits, state = model(ids[:, -1:], state=state)
        ours = logits[0, -1]
        best, other = int(ours.argmax()), int(run(ids)[0, step].argmax())
        if ours[best] - ours[other] > slack:
            raise ArtifactError(f"{path}: greedy step {step} gives token {other}, the network gives {best}")
        agreed += best == other
        ids = torch.cat((ids, torch.tensor([[best]])), 1)
    return steps, agreed


STEPS = 72  # of decoding: more than the operators' default windows and chunks


@torch.inference_mode()
def proven_steps(path: Path, model: Model, step: Run, inputs: Tensor) -> Proof:
    """Decode inputs [B, T] token by token with `step`, [B, 1] -> [B, 1, W], and compare with one forward pass.

    Raises ArtifactError naming file and token if a token's logits differ by more than the tolerance.
    """
    ids = inputs[:2, : min(STEPS, model.max_len or STEPS)]
    if ids.shape[1] < STEPS and ids.shape[1] < model.arch.stem["max_len"]:
        ids = ids.repeat(1, -(-STEPS // ids.shape[1]))[:, : min(STEPS, model.arch.stem["max_len"])]
    ours = model(ids)[0]
    scale, difference, agreed = max(1.0, float(ours.abs().max())), 0.0, 0
    for t in range(ids.shape[1]):
        theirs = step(ids[:, t : t + 1])[:, 0]
        difference = max(difference, float((theirs - ours[:, t]).abs().max()))
        if not difference <= TOLERANCE * scale:
            raise ArtifactError(f"{path}: logits of token {t} differ from the network's by {difference:.3g}")
        agreed += int((theirs.argmax(-1) == ours[:, t].argmax(-1)).all())
    return Proof(difference, ids.shape[1], agreed)
