"""A contract: a property of all operators in some slots, checked by a function that describes a violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from searchspace.contracts import cases
from searchspace.contracts.cases import Case


@dataclass(frozen=True)
class Contract:
    """`check` raises AssertionError with one sentence; `slots` are the slots it applies to, empty for all."""

    check: Callable[[Case], None]
    slots: tuple[str, ...]
    causal: bool | None
    when: Callable[[Case], bool]

    @property
    def name(self) -> str:
        return self.check.__name__

    def cases(self) -> list[Case]:
        return [case for case in cases.quick(*self.slots, causal=self.causal) if self.when(case)]

    def __call__(self, case: Case) -> None:
        with exactly():
            self.check(case)


def contract(
    *slots: str, causal: bool | None = None, when: Callable[[Case], bool] = lambda case: True
) -> Callable[[Callable[[Case], None]], Contract]:
    """Decorator that makes a check a contract of the operators in these slots."""
    return lambda check: Contract(check, slots, causal, when)


def once(case: Case) -> bool:
    """Condition for contracts that do not depend on the setting: true for an operator's first one."""
    return case.rank == 0


@contextmanager
def exactly() -> Iterator[None]:
    """Context with float64, so that tolerances hide no mistakes, and with fixed random numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Raises AssertionError where `actual` and `expected` [...] differ by more than `tolerance`, absolute and relative.

    `what` begins the message. Runs with equal shapes and memory layout use the same kernels, so they can be compared
    bitwise with torch.equal. Other shapes may be summed in another order: 1e-12 in float64 where nothing else differs,
    1e-9 for different formulas.
    """
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, not {list(expected.shape)}"
    if not torch.isclose(actual, expected, rtol=tolerance, atol=tolerance).all():
        worst = (actual - expected).abs().max()
        raise AssertionError(f"{what} by {worst:.2g}, more than {tolerance:g}")
