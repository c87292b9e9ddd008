"""FLOPs of one forward pass over one example of the longest length, a multiply-add as 2: a baseline."""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from searchspace.cost import cost
from searchspace.model import contexts
from searchspace.spec.workload import Workload


def flops(subject: Subject) -> float:
    max_len = contexts(subject.arch)["stem"].layout.max_len
    return float(cost(subject.arch, Workload(seq_len=max_len)).flops)


PROXY = Proxy(name="flops", paper="a count", needs="nothing", score=flops)
