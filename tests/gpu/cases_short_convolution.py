"""Timings of the short convolution with SiLU beside torch, torch.compile and flash-linear-attention's."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from predictors.timing import Call
from searchspace.kernels import dispatch
from searchspace.primitives.convolution import causal_convolution
from tests.gpu.benchmark import Case

SHAPES = {"T 2048": (8, 2048, 2048), "T 8192": (1, 8192, 2048)}  # B, T, C
TINY = (1, 6, 8)
TAPS = 4


def make(device: str, shape: tuple[int, int, int], phase: str) -> dict[str, Call]:
    B, T, C = TINY if device == "cpu" else shape
    T = 1 if phase == "decode" else T
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    x = torch.randn(B, T, C, device=device, dtype=dtype, requires_grad=phase == "train")
    weight = torch.randn(C, TAPS, device=device, dtype=dtype, requires_grad=phase == "train")
    earlier = x.new_zeros(B, TAPS - 1, C) if phase == "decode" else None
    cotangent = torch.randn_like(x)

    def convolved(implementation: str) -> Any:
        with dispatch.use(implementation):
            return finished(causal_convolution(x, weight, earlier, 1, True)[0])

    def finished(y: Tensor) -> Any:
        return torch.autograd.grad(y, (x, weight), cotangent) if phase == "train" else y

    found: dict[str, Call] = {name: partial(convolved, name) for name in dispatch.IMPLEMENTATIONS[::-1]}
    if device == "cuda":
        compiled = torch.compile(causal_convolution)
        found["compiled"] = lambda: finished(compiled(x, weight, earlier, 1, True)[0])
        try:
            module = importlib.import_module("fla.modules.convolution")
        except ImportError:
            return found
        if phase != "decode":
            taps = weight.flip(1)  # stored from the token outwards here, from the past inwards there
            found["fla"] = lambda: finished(module.causal_conv1d(x, weight=taps, activation="silu")[0])
    return found


CASES = tuple(
    Case(f"short convolution {name}", phase, partial(make, shape=shape, phase=phase))
    for name, shape in SHAPES.items()
    for phase in ("forward", "train", "decode")
)
