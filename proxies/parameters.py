"""Number of parameters: the baseline that a proxy has to beat."""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from searchspace.cost import cost
from searchspace.spec.workload import Workload


def parameters(subject: Subject) -> float:
    return float(cost(subject.arch, Workload()).parameters)


PROXY = Proxy(name="parameters", paper="a count", needs="nothing", score=parameters)
