"""Depth: how many blocks run, a repeated one each time: a baseline."""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject


def depth(subject: Subject) -> float:
    arch, layer, runs = subject.arch, 0, 0
    for stage in arch.stages:
        blocks = arch.blocks[layer : layer + stage.num_blocks]
        runs += stage.repeats * sum(block.is_active for block in blocks)
        layer += stage.num_blocks
    return float(runs)


PROXY = Proxy(name="depth", paper="a count", needs="nothing", score=depth)
