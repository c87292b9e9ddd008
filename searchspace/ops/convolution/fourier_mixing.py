"""Fourier mixing: tokens and channels of a head are mixed by a fixed orthonormal transform without weights.

    y = W_o F(W_v x)        dft   F(v) = Re(F_T v F_K) / sqrt(T K)        F_N[a, b] = exp(-2 pi i a b / N)
                            dct   F(v) = C_T v C_K^T
    C_N[a, b] = sqrt((2 - [a = 0]) / N) cos(pi a (2 b + 1) / (2 N))

Lee-Thorp et al., "FNet: Mixing Tokens with Fourier Transforms", arXiv:2105.03824, transform the whole input of a layer;
FlexiBERT, Tuli et al., arXiv:2205.11656, each head of a projection, with DFT or DCT (linear transform). T counts the
real tokens of a sequence. The published transforms lack the factor 1 / sqrt(T K), without which the output would
dominate the residual stream here. NAS-Bench-BERT leaves out W_o, which here allows heads times head_dim to differ from
D. A fast Fourier transform has no matrix products, so its FLOPs are not counted. Bidirectional only.
Shapes: x [B, T, D], v [B, T, H, K].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class FourierMixing(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.H, self.K, self.transform = spec["num_groups"], spec["head_dim"], spec["transform"]
        d_model = Axis.of(D=context.d_model)
        self.v_proj = context.linear("v", Axis.of(G=self.H, K=self.K), d_model)
        self.o_proj = context.linear("o", d_model, Axis.of(G=self.H, R=1, K=self.K))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        v = self.v_proj(x).unflatten(2, (self.H, self.K)).transpose(1, 2)  # [B, H, T, K]
        wide = v.to(torch.promote_types(x.dtype, torch.float32))
        if tokens.valid is None:
            y = self.mixed(wide)
        else:  # sequences of different lengths have different transforms
            y = torch.zeros_like(wide)
            for b, real in enumerate(tokens.valid):
                y[b, :, real] = self.mixed(wide[b, :, real])
        return self.o_proj(y.to(x.dtype).transpose(1, 2).flatten(2)), None

    def mixed(self, v: Tensor) -> Tensor:
        """v [..., T, K] -> [..., T, K]."""
        if not v.numel():
            return v
        if self.transform == "dft":
            return torch.fft.fft2(v, norm="ortho").real
        return dct(dct(v).mT).mT


def dct(v: Tensor) -> Tensor:
    """Orthonormal DCT-II of the last axis, [..., N] -> [..., N], by one Fourier transform of length N.

    It transforms the even places followed by the odd ones reversed: Makhoul, "A fast cosine transform in one and two
    dimensions", 1980.
    """
    N = v.shape[-1]
    spectrum = torch.fft.fft(torch.cat((v[..., ::2], v[..., 1::2].flip(-1)), -1), norm="ortho")
    angle = torch.arange(N, device=v.device, dtype=v.dtype) * (math.pi / (2 * N))
    y = spectrum.real * angle.cos() + spectrum.imag * angle.sin()
    return torch.cat((y[..., :1], y[..., 1:] * math.sqrt(2)), -1)


def reference(module: FourierMixing, x: Tensor, tokens: Tokens) -> Tensor:
    """With matrices, sequence by sequence. x [B, T, D] -> [B, T, D]."""
    v = module.v_proj(x).unflatten(2, (module.H, module.K)).transpose(1, 2)
    rows = []
    for b, heads in enumerate(v):
        real = slice(None) if tokens.valid is None else tokens.valid[b].nonzero().squeeze(1)
        y = torch.zeros_like(heads)
        y[:, real] = _with_matrices(module.transform, heads[:, real])
        rows.append(y)
    return module.o_proj(torch.stack(rows).transpose(1, 2).flatten(2))


def _with_matrices(transform: str, v: Tensor) -> Tensor:
    T, K = v.shape[-2:]
    if transform == "dct":
        return cosines(T, v.dtype) @ v @ cosines(K, v.dtype).mT
    (cos_t, sin_t), (cos_k, sin_k) = waves(T, v.dtype), waves(K, v.dtype)
    return (cos_t @ v @ cos_k - sin_t @ v @ sin_k) / math.sqrt(T * K)


def waves(N: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2 pi a b / N, [N, N] each."""
    a = torch.arange(N, dtype=torch.float64)
    angle = 2 * math.pi / N * a[:, None] * a
    return angle.cos().to(dtype), angle.sin().to(dtype)


def cosines(N: int, dtype: torch.dtype) -> Tensor:
    """Return the orthonormal DCT-II matrix C_N [N, N]."""
    a = torch.arange(N, dtype=torch.float64)
    matrix = (math.pi / (2 * N) * a[:, None] * (2 * a + 1)).cos() * math.sqrt(2 / N)
    matrix[0] /= math.sqrt(2)
    return matrix.to(dtype)


OPERATOR = Operator(
    name="fourier_mixing",
    slot="mixer",
    paper="FNet, Lee-Thorp et al. 2021, arXiv:2105.03824; FlexiBERT, Tuli et al. 2022, arXiv:2205.11656",
    build=FourierMixing,
    reference=reference,
    choices={"num_groups": (1, 2, 4), "head_dim": (16, 32), "transform": ("dft", "dct")},
    causal=False,
    catalogue=(5,),
    quantizable=("v", "o"),
    complexity="T H K log(T K)",
)
