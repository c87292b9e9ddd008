"""Timings of the norms, the gate and the softmax beside torch and torch.compile."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from predictors.timing import Call
from searchspace.primitives.activations import gated_activation
from searchspace.primitives.row_norms import add_layer_norm, add_rms_norm
from searchspace.primitives.row_statistics import masked_softmax
from tests.gpu.benchmark import Case
from tests.gpu.comparisons import compared, normal

EPS = 1e-6


def norm(device: str, D: int, phase: str, is_centred: bool) -> dict[str, Call]:
    N, D = (8, 24) if device == "cpu" else (16384, D)
    sizes = [(N, D), (N, D), (D,)] + [(D,)] * is_centred
    inputs = [normal(device, *size, is_trained=phase == "train") for size in sizes]
    function = partial(add_layer_norm if is_centred else add_rms_norm, eps=EPS)
    return compared(device, function, inputs, phase)


def gate(device: str, F: int, phase: str) -> dict[str, Call]:
    N, F = (8, 24) if device == "cpu" else (8192, F)
    inputs = [normal(device, N, F, is_trained=phase == "train") for _ in range(2)]
    return compared(device, partial(gated_activation, activation="silu"), inputs, phase)


def softmax(device: str, S: int, phase: str) -> dict[str, Call]:
    T, S = (4, 24) if device == "cpu" else (2048, S)
    visible = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)

    def of_scores(scores: Tensor) -> Tensor:
        return masked_softmax(scores, visible)

    return compared(device, of_scores, [normal(device, 1, 8, T, S, is_trained=phase == "train")], phase)


CASES = (
    *(
        Case(
            f"{'layer' if is_centred else 'rms'} norm behind a residual D {D}",
            phase,
            partial(norm, D=D, phase=phase, is_centred=is_centred),
        )
        for is_centred, D in ((False, 1024), (False, 4096), (True, 1024))
        for phase in ("forward", "train")
    ),
    *(
        Case(f"silu gate F {F}", phase, partial(gate, F=F, phase=phase))
        for F in (2816, 11008)
        for phase in ("forward", "train")
    ),
    *(
        Case(f"masked softmax S {S}", phase, partial(softmax, S=S, phase=phase))
        for S in (2048, 16384)
        for phase in ("forward", "train")
    ),
)
