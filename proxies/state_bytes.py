"""Bytes that decoding one sequence of the longest length keeps: a baseline; 0 where all tokens are seen at once."""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from searchspace.cost import cost
from searchspace.model import contexts
from searchspace.spec.workload import Workload


def state_bytes(subject: Subject) -> float:
    max_len = contexts(subject.arch)["stem"].layout.max_len
    return float(cost(subject.arch, Workload(seq_len=max_len)).state_bytes)


PROXY = Proxy(name="state_bytes", paper="a count", needs="nothing", score=state_bytes)
