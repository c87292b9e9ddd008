"""Checks kernels before their first use with compilers that are known to compile some of them wrongly.

Triton before 3.7.1 on Hopper (compute capability 9.x) reorders loads of gated backward passes, and its ptxas overwrites
operands that a tensor core product (wgmma) still reads from registers; the kernels of the recurrence and the delta rule
have both patterns. The check runs forward and backward twice, requires bitwise equal results, and compares them with
the recurrence token by token in float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

AFFECTED = ("delta_rule", "recurrence")
HOPPER = 9
FIRST_RIGHT = (3, 7, 1)
ALLOWED = 2.0**-5  # largest error relative to the norm of a result: eight times the rounding of bfloat16
SIZES = ((1, 130, 2, 64), (1, 130, 2, 128))  # B, T, G, and K = V
CHUNK = 64

Run = Callable[..., tuple[Tensor, Tensor]]


def is_suspect(name: str, version: str, capability: tuple[int, int]) -> bool:
    """Whether Triton `version` may compile kernel `name` wrongly for a device of this compute capability."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    return name in AFFECTED and capability[0] == HOPPER and numbers < FIRST_RIGHT


def why_wrong_here(name: str, run: Run, device: torch.device) -> str | None:
    """Why kernel `name` can't be used on `device` with the installed Triton, in one sentence; None if it can."""
    if not is_suspect(name, triton.__version__, torch.cuda.get_device_capability(device)):
        return None
    with torch.cuda.device(device):
        reason = why_wrong(name, run, device)
    if reason is None:
        return None
    return (
        f"Triton {triton.__version__} compiles it wrongly for this device ({reason}); "
        "install Triton 3.7.1 or later, or take torch"
    )


def why_wrong(
    name: str, run: Run, device: torch.device, sizes: Sequence[tuple[int, int, int, int]] = SIZES
) -> str | None:
    """What is wrong with the results of `run`, the kernel `name`; None if they are right."""
    for size in sizes:
        given, cotangent = _inputs(name, size)
        exact = _results(_formula, [t.double() for t in given], cotangent.double())
        moved = [t.to(device) for t in given]
        first, second = (_results(_called(run), moved, cotangent.to(device)) for _ in range(2))
        for what, truth, value, again in zip(("o", *"qkvab"), exact, first, second, strict=False):
            if not torch.equal(value, again):
                return f"two runs differ in {what}"
            error = (value.cpu().double() - truth).norm() / truth.norm()
            if not error <= ALLOWED:
                return f"{what} is off by {float(error):.2g} of its norm with a head of {size[-1]}"
    return None


def _inputs(name: str, size: tuple[int, int, int, int]) -> tuple[list[Tensor], Tensor]:
    """([q, k of norm 1, v, weak log decay, write strength for the delta rule], cotangent of the output)."""
    B, T, G, K = size
    generator = torch.Generator().manual_seed(K)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    q, k, v = normal(B, T, G, K) / K**0.5, F.normalize(normal(B, T, G, K), dim=-1), normal(B, T, G, K)
    given = [t.bfloat16() for t in (q, k, v)] + [F.logsigmoid(normal(B, T, G, 1)) / 16]
    if name == "delta_rule":
        given.append(normal(B, T, G).sigmoid().bfloat16())
    return given, normal(B, T, G, K).bfloat16()


def _called(run: Run) -> Callable[..., Tensor]:
    """`run` with one query head per group, as a function of the tensors of `_inputs` that returns the output."""

    def call(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, *beta: Tensor) -> Tensor:
        return run(q.unsqueeze(3), k, v, log_a, None, CHUNK, *beta)[0].squeeze(3)

    return call


def _formula(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, *beta: Tensor) -> Tensor:
    """The output [B, T, G, V] computed token by token."""
    S = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    found = []
    for t in range(q.shape[1]):
        S = log_a[:, t].exp().unsqueeze(-1) * S
        u = v[:, t]
        if beta:
            u = beta[0][:, t].unsqueeze(-1) * (u - torch.einsum("bgkv,bgk->bgv", S, k[:, t]))
        S = S + k[:, t].unsqueeze(-1) * u.unsqueeze(-2)
        found.append(torch.einsum("bgk,bgkv->bgv", q[:, t], S))
    return torch.stack(found, 1)


def _results(run: Callable[..., Tensor], given: Sequence[Tensor], cotangent: Tensor) -> list[Any]:
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in given]
        o = run(*leaves)
        return [o.detach(), *torch.autograd.grad(o, leaves, cotangent.to(o.dtype))]
