"""Counts of an architecture: the baselines that a training-free score must beat.

FLOPs (a multiply-add as 2) and decoding state in bytes are for one example of maximum length; depth counts the blocks
that run, a repeated block each time.
"""

from __future__ import annotations

from collections.abc import Callable

from proxies.registry import Proxy
from proxies.subject import Subject
from searchspace.cost import Cost, cost
from searchspace.model import contexts
from searchspace.spec.workload import Workload


def cost_of_longest(subject: Subject) -> Cost:
    max_len = contexts(subject.arch)["stem"].layout.max_len
    return cost(subject.arch, Workload(seq_len=max_len))


def _count(name: str, of: Callable[[Subject], int]) -> Proxy:
    return Proxy(name=name, paper="a count", needs="nothing", score=lambda subject: float(of(subject)))


DEPTH = _count("depth", lambda subject: subject.arch.depth)
FLOPS = _count("flops", lambda subject: subject.once(cost_of_longest).flops)
PARAMETERS = _count("parameters", lambda subject: subject.once(cost_of_longest).parameters)
STATE_BYTES = _count("state_bytes", lambda subject: subject.once(cost_of_longest).state_bytes)
