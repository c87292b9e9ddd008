"""Zen: log E||f(x + a e) - f(x)|| - log a + sum over norms of log s, with e normal and f(x) what the head reads.

Lin et al., "Zen-NAS", arXiv:2102.01063. s is the root mean square of a norm's input, which restores the scale that the
norm removes. The score uses no data: x is the stem's output for random inputs, and e is scaled to x.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

import torch
from torch import Tensor

from proxies.batch import random_batch
from proxies.recording import NORM
from proxies.registry import Proxy
from proxies.subject import Subject, finite_model

STEP, NUM_PAIRS = 1e-2, 2


@torch.no_grad()
def zen(subject: Subject) -> float:
    model = subject.once(finite_model)
    like = next(model.parameters())
    inputs = random_batch(subject.arch, NUM_PAIRS, subject.seed).inputs.to(like.device)
    inputs = inputs.to(like.dtype) if inputs.is_floating_point() else inputs
    read: dict[str, list[Tensor]] = {"head": [], "norms": []}
    stem, head = model.part("stem"), model.part("head")
    with ExitStack() as hooks:
        hooks.enter_context(
            stem.register_forward_hook(lambda _, x, out: (disturbed(out[0], subject.seed), out[1]))
        )
        hooks.enter_context(head.register_forward_pre_hook(lambda _, x: read["head"].append(x[0])))
        for name, norm in model.named_modules():
            if NORM.fullmatch(name):
                hooks.enter_context(norm.register_forward_pre_hook(lambda _, x: read["norms"].append(x[0])))
        model(torch.cat((inputs, inputs)))
    plain, moved = read["head"][0].double().flatten(1).chunk(2)
    change = (moved - plain).norm(dim=1).mean().item()
    scales = [x.double().square().mean().sqrt().item() for x in read["norms"]]
    if not min(change, *scales, 1.0) > 0:
        return -math.inf
    return math.log(change / STEP) + sum(map(math.log, scales))


def disturbed(x: Tensor, seed: int) -> Tensor:
    """Return x [2 N, T, D], whose halves are equal, with a small step of noise added to its second half."""
    plain, other = x.chunk(2)
    noise = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    return torch.cat((plain, other + STEP * plain.square().mean().sqrt() * noise))


PROXY = Proxy(name="zen", paper="Lin et al. 2021, arXiv:2102.01063", needs="nothing", score=zen)
