"""Few-step synthetic tasks in the style of MAD: a copy of the network trains briefly on made-up tokens.

Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844. Theirs trains small stand-ins
to the end; this takes NUM_STEPS of Adam and scores the loss on a fresh batch. No input shows a target at its place or
after it, so that networks which see all tokens at once have to do the same work.
Shapes: B examples, T tokens (the network's longest length), A ids in use.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from proxies.batch import Batch, input_shape
from proxies.gradients import cross_entropy
from proxies.subject import Subject, Unscorable, finite_model

NUM_STEPS, BATCH_SIZE, LEARNING_RATE, MAX_IDS = 16, 8, 3e-3, 16
Task = Callable[[int, int, Generator], Batch]  # (T, A, generator) -> examples
ToHead = Callable[[Tensor], Tensor]


def trained_loss(subject: Subject, task: Task, to_head: ToHead | None = None) -> float:
    """`to_head` changes what the head reads. Raises Unscorable where the network is not one from tokens to tokens."""
    T, num_ids = _sizes(subject)
    model = copy.deepcopy(subject.once(finite_model))
    device = next(model.parameters()).device
    generator = Generator().manual_seed(subject.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    if to_head is not None:
        model.part("head").register_forward_pre_hook(lambda _, inputs: (to_head(inputs[0]), *inputs[1:]))
    for step in range(NUM_STEPS + 1):
        drawn = task(T, min(num_ids, MAX_IDS), generator)
        valid = None if drawn.valid is None else drawn.valid.to(device)
        batch = Batch(drawn.inputs.to(device), drawn.targets.to(device), valid)
        with torch.set_grad_enabled(step < NUM_STEPS):
            loss = cross_entropy(model(batch.inputs)[0], batch)
        if step < NUM_STEPS:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss.item()


def _sizes(subject: Subject) -> tuple[int, int]:
    shape, num_ids = input_shape(subject.arch.stem)
    if not num_ids:
        raise Unscorable(f"{subject.arch.stem.op} takes no tokens")
    if subject.arch.task == "classification":
        raise Unscorable("a classifier predicts no tokens")
    if min(shape[0], num_ids) < 4:
        raise Unscorable(f"the task needs 4 tokens and 4 ids, got {shape[0]} and {num_ids}")
    if (told := subject.arch.head["vocab_size"]) < min(num_ids, MAX_IDS):
        raise Unscorable(f"the head tells {told} ids apart, the task uses {min(num_ids, MAX_IDS)}")
    return shape[0], num_ids


def recall(T: int, A: int, generator: Generator) -> Batch:
    """key value key value ... then keys alone, each to be answered with its value."""
    n, half = min(T // 4, A // 2), A // 2
    keys = torch.stack([torch.randperm(half, generator=generator)[:n] for _ in range(BATCH_SIZE)])
    values = torch.randint(half, A, (BATCH_SIZE, n), generator=generator)
    asked = torch.randint(n, (BATCH_SIZE, T - 2 * n), generator=generator)
    told = torch.stack((keys, values), 2).flatten(1)
    answers = torch.cat((torch.zeros_like(told), values.gather(1, asked)), 1)
    inputs = torch.cat((told, keys.gather(1, asked)), 1)
    return Batch(inputs, answers, (torch.arange(T) >= 2 * n).expand(BATCH_SIZE, T))


def copying(T: int, A: int, generator: Generator) -> Batch:
    """A sequence, then as many blanks (id 0), where it has to be said again."""
    n = T // 2
    said = torch.randint(1, A, (BATCH_SIZE, n), generator=generator)
    blank = torch.zeros(BATCH_SIZE, T - n, dtype=torch.int64)
    targets = torch.cat((blank, said), 1)
    return Batch(torch.cat((said, blank), 1), targets, (torch.arange(T) >= T - n).expand(BATCH_SIZE, T))


def compression(T: int, A: int, generator: Generator) -> Batch:
    """A sequence whose every token has to be told from the last one's vector alone."""
    tokens = torch.randint(A, (BATCH_SIZE, T), generator=generator)
    return Batch(tokens, tokens)


def last_token_signed(x: Tensor) -> Tensor:
    """[B, T, D] -> [B, T, D]: the last token's vector once for each place, with the place's fixed random signs."""
    signs = torch.randint(2, x.shape[1:], generator=Generator().manual_seed(0)).to(x) * 2 - 1
    return x[:, -1:] * signs
