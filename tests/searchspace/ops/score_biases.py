"""A score bias as a mixer sees it, for the identity tests of biases."""

from typing import Any

import torch
from torch import Tensor

from searchspace import registry
from searchspace.primitives.context import BuildContext, Layout
from searchspace.primitives.scores import HeadSizes
from searchspace.spec.arch import OpSpec


def bias_of(op: str, causal: bool = True, **items: Any) -> Any:
    """For four heads, float64."""
    context = BuildContext(12, causal=causal, layout=Layout(64))
    return registry.build("score_bias", OpSpec.of(op, **items), context, HeadSizes(2, 2, 4)).double()


def distances(T: int) -> Tensor:
    return torch.arange(T)[:, None] - torch.arange(T)[None, :]


def centred_eigenvalues(bias: Tensor) -> Tensor:
    """Of each head's matrix [H, T, T] with the mean position projected out: none is negative for a CPD kernel."""
    T = bias.shape[-1]
    project = torch.eye(T, dtype=bias.dtype) - 1 / T
    return torch.linalg.eigvalsh(project @ bias @ project)
