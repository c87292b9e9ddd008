"""The Legendre memory holds the coefficients of the last theta tokens."""

import math
from typing import Any

import pytest
import torch

from searchspace.ops.recurrence.lmu import transition
from tests.searchspace.ops.identities import build

DEFINING_TERM = ("signs = torch.where(lag < 0, -1.0, ", "signs = torch.where(lag < 0, 1.0, ")


def remembered(u: torch.Tensor, order: int, theta: int) -> torch.Tensor:
    """u [T] -> the memory after each token [T, N], T at most one chunk at a time."""
    module: Any = build("mixer", "lmu", num_signals=1, order=order, theta=theta)
    m, found = torch.zeros(1, 1, order, dtype=torch.float64), []
    for part in u.split(64):
        found.append(module.remembered(part.view(1, 1, -1), m))
        m = found[-1][:, -1]
    return torch.cat(found, 1)[0, :, 0]


@pytest.mark.parametrize(("order", "theta"), [(8, 16), (16, 16), (32, 64)])
def test_a_constant_signal_is_its_constant_coefficient_alone(order: int, theta: int):
    m = remembered(torch.ones(640, dtype=torch.float64), order, theta)
    expected = torch.zeros(order, dtype=torch.float64)
    expected[0] = 1.0
    torch.testing.assert_close(m[-1], expected, rtol=1e-6, atol=1e-6)


def test_a_slow_signal_can_be_read_at_any_delay():
    """u(t - s) = sum_i P_i(2 s / theta - 1) m_i, with Legendre polynomials P_i by their recursion."""
    theta, order = 32, 8
    t = torch.arange(320, dtype=torch.float64)
    m = remembered((2 * math.pi * t / 100).sin(), order, theta)[-1]
    for delay in (0, 8, 16, 32):
        z = 2 * delay / theta - 1
        P = [1.0, z]
        for n in range(1, order - 1):
            P.append(((2 * n + 1) * z * P[n] - n * P[n - 1]) / (n + 1))
        value = sum(p * float(c) for p, c in zip(P, m, strict=True))
        assert value == pytest.approx(math.sin(2 * math.pi * (319 - delay) / 100), abs=0.05)


@pytest.mark.parametrize(("order", "theta"), [(8, 16), (8, 64), (32, 16), (32, 64)])
def test_the_memory_fades(order: int, theta: int):
    A, _ = transition(order, theta)
    assert torch.linalg.eigvals(A).abs().max() < 1
