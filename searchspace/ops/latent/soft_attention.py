"""Softmax-free attention: a Gaussian kernel between tokens, of low rank through landmarks of the image.

    q = W_q x / K^(1/4), keys are the queries        a = gelu(layernorm(convolution of q, kernel r, stride r))
    E_ij = exp(-|q_i - a_j|^2 / 2)        P_ij = exp(-|a_i - a_j|^2 / 2) + 0.01 [i = j]        O = E V_n E^T V
    V_0 = I / |P|_1, V_{n+1} = 2 V_n - V_n P V_n -> P^-1        for each image and head

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", arXiv:2110.11945, and "Softmax-free Linear
Transformers", arXiv:2207.03341. Newton's iteration has twenty steps: the error's eigenvalues (1 - lambda / |P|_1)^(2^n)
vanish for up to thousands of landmarks. The published start, alpha P, squares the condition number and would need twice
as many. Without the ridge of 0.01, nearly equal landmarks would make P singular. The kernel is computed in at least
float32. `conv` adds a depthwise 3 x 3 convolution of the values; the paper has kernels of 9, 5 and 3 by stage.
Landmarks that cover only padding are not used.

    normalized   V_n becomes D^(-1/2) V_n D^(-1/2), D the row sums of P: the self-attention of the second paper, whose
                 largest eigenvalue does not grow with the number of tokens (SOFT++)
Shapes: B batch, T tokens of the grid, D model width, G heads, K head dim, m landmarks, r stride.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, normal, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.latent import local_values, local_values_flops, pad_grid
from searchspace.primitives.masks import grid_of, num_blocks
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

NEWTON_STEPS, RIDGE, KERNEL = 20, 0.01, 3


class SoftAttention(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, self.K, self.stride = spec["num_groups"], spec["head_dim"], spec["stride"]
        self.conv, self.layout = spec["conv"], context.layout
        self.normalized = spec.get("normalized", False)
        d_model, heads = Axis.of(D=context.d_model), Axis.of(G=self.G, R=1, K=self.K)
        self.q_proj = context.linear("q", heads, d_model)
        self.v_proj = context.linear("v", Axis.of(G=self.G, K=self.K), d_model)
        self.o_proj = context.linear("o", d_model, heads)
        channel, side = Axis.of(K=self.K), {"Y": self.stride, "X": self.stride}
        axes = (channel, channel, *(Axis.of(**{name: size}) for name, size in side.items()))
        self.declare("landmark_conv", axes, normal(1 / (self.stride * self.K**0.5)))
        self.declare("landmark_scale", (channel,), ones)
        self.declare("landmark_shift", (channel,), zeros)
        if self.conv:
            axes = (Axis.of(G=self.G, K=self.K), Axis.of(Y=KERNEL), Axis.of(X=KERNEL))
            self.declare("value_conv", axes, normal(1 / KERNEL))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        E, P, v = self.kernels(x, tokens)
        y = (E @ (self.inverse(P) @ (E.mT @ v.transpose(1, 2).to(E.dtype)))).to(x.dtype).transpose(1, 2)
        return self.o_proj((y + self.local(v, tokens)).flatten(2)), None

    def kernels(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """E [B, G, T, m], 0 at padding, P [B, G, m, m], only 1.01 on the diagonal in unused rows, v [B, T, G, K]."""
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.G, self.K) / self.K**0.25
        a, exists = self.landmarks(q, tokens)
        dtype = torch.promote_types(x.dtype, torch.float32)
        q, a = q.transpose(1, 2).to(dtype), a.to(dtype)
        exists = exists[:, None, :, None]
        E, P = gauss(q, a) * exists.mT, gauss(a, a) * (exists & exists.mT)
        if tokens.valid is not None:
            E = E * tokens.valid[:, None, :, None]
        P = P + torch.diag_embed((~exists).to(dtype).squeeze(-1) + RIDGE)
        return E, P, self.v_proj(x).view(B, T, self.G, self.K)

    def inverse(self, P: Tensor) -> Tensor:
        """P [B, G, m, m] -> the matrix between E and E^T, [B, G, m, m]."""
        inverse = newton_inverse(P)
        if not self.normalized:
            return inverse
        root = P.sum(-1).rsqrt()
        return root.unsqueeze(-1) * inverse * root.unsqueeze(-2)

    def landmarks(self, q: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """q [B, T, G, K] -> landmarks [B, G, m, K], and which windows have a real token [B, m]."""
        B, T, G, K = q.shape
        real = tokens.real(q.flatten(2))
        image = pad_grid(tokens.without_padding(q).flatten(2), tokens.sides, self.stride)
        image = image.unflatten(1, (G, K)).flatten(0, 1)
        a = F.conv2d(image, self.landmark_conv, stride=self.stride).flatten(2).mT  # [B G, m, K]
        a = F.gelu(F.layer_norm(a, (K,), self.landmark_scale, self.landmark_shift))
        exists = F.max_pool2d(pad_grid(real, tokens.sides, self.stride), self.stride).flatten(1) > 0
        return a.unflatten(0, (B, G)), exists

    def local(self, v: Tensor, tokens: Tokens) -> Tensor:
        """The local convolution of v [B, T, G, K] -> [B, T, G, K], 0 without `conv`."""
        if not self.conv:
            return torch.zeros_like(v)
        return local_values(v, self.value_conv, tokens)


def gauss(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x_i - y_j|^2 / 2) of x [..., n, K] and y [..., m, K]."""
    squares = x.square().sum(-1, keepdim=True) + y.square().sum(-1).unsqueeze(-2) - 2 * x @ y.mT
    return (-squares.clamp_min(0.0) / 2).exp()


def newton_inverse(P: Tensor, steps: int = NEWTON_STEPS) -> Tensor:
    """Approximate inverse of P [..., m, m], symmetric and positive definite; the start has no gradient."""
    norm = P.detach().abs().sum(-1).amax(-1)
    V = torch.diag_embed(torch.ones_like(P[..., 0]) / norm.unsqueeze(-1))
    for _ in range(steps):
        V = 2 * V - V @ P @ V
    return V


def reference(module: SoftAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """Newton's iteration in closed form, V_n = (I - (I - P / |P|_1)^(2^n)) P^-1. x [B, T, D] -> [B, T, D]."""
    E, P, v = module.kernels(x, tokens)
    norm = P.detach().abs().sum(-1).amax(-1)[..., None, None]
    eye = torch.eye(P.shape[-1], dtype=P.dtype)
    left = torch.linalg.matrix_power(eye - P / norm, 2**NEWTON_STEPS)
    inverse = (eye - left) @ torch.linalg.inv(P)
    if module.normalized:
        root = torch.diag_embed(1 / P.sum(-1).sqrt())
        inverse = root @ inverse @ root
    weights = E @ inverse @ E.mT  # [B, G, T, T]
    y = torch.einsum("bgij,bjgk->bigk", weights, v.to(P.dtype)).to(x.dtype)
    return module.o_proj((y + module.local(v, tokens)).flatten(2))


def flops(module: SoftAttention, T: int, S: int) -> int:
    G, K, m = module.G, module.K, num_blocks(grid_of(module.layout, T), module.stride)
    landmarks = 2 * m * K * K * module.stride**2
    kernels = 6 * T * m * K + 4 * m * m * K
    conv = local_values_flops(T, G, K, KERNEL) if module.conv else 0
    return G * (landmarks + kernels + 4 * NEWTON_STEPS * m**3) + conv


OPERATOR = Operator(
    name="soft_attention",
    slot="mixer",
    paper="SOFT, Lu et al. 2021, arXiv:2110.11945; Softmax-free Linear Transformers 2022, arXiv:2207.03341",
    build=SoftAttention,
    reference=reference,
    choices={"num_groups": (1, 2, 4), "head_dim": (16, 32), "stride": (2, 4), "conv": (False, True)},
    options={"normalized": (False, True)},
    flops=flops,
    causal=False,
    needs_2d=True,
    quantizable=("q", "v", "o"),
    catalogue=(44, 114),
    complexity="T m G K + 20 m^3 G",
)
