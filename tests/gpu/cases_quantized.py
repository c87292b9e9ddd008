"""Timings of products with 4 and 8 bit weights beside torch's own in the type of the activations."""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from predictors.timing import Call
from searchspace.primitives.integer_matmul import (
    dynamic_int8_matmul,
    int4_matmul,
    int8_matmul,
    quantize_rows,
)
from tests.gpu.benchmark import Case
from tests.gpu.comparisons import normal, timed, under
from tests.searchspace.kernels.harness import pack_int4

SIZE = 4096
GROUP = 64


def product(device: str, M: int, kind: str) -> dict[str, Call]:
    M, size = (3, 128) if device == "cpu" else (M, SIZE)
    x, weight = normal(device, M, size), normal(device, size, size)
    function = {"int4": int4_matmul, "int8": int8_matmul, "dynamic int8": dynamic_int8_matmul}[kind]
    stored = pack_int4(weight, GROUP) if kind == "int4" else quantize_rows(weight)
    return {
        "triton": timed(under("triton", function), (x, *stored), "forward"),
        "torch, not quantized": timed(F.linear, (x, weight), "forward"),
    }


CASES = tuple(
    Case(
        f"{kind} product {SIZE} x {SIZE} for {M} tokens",
        "decode" if M < 64 else "forward",
        partial(product, M=M, kind=kind),
    )
    for kind in ("int4", "int8", "dynamic int8")
    for M in (1, 16, 4096)
)
