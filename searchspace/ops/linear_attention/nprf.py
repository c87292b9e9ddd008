"""Kernelized attention with relative positions: random features of unit vectors, weights scaled by distance.

    w_ij = phi(q_i) . phi(k_j) exp(b_{j - i})          o_i = sum_j w_ij v_j / sum_j w_ij
    phi(x) = exp(w_n . x / |x| - 1/2) / sqrt(N)

Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding", arXiv:2106.12566. For
each feature and value the sum over j is a Toeplitz product: bidirectional networks compute it by Fourier transform, in
T log T. That leaks round-off from later tokens, so causal networks compute pairs and have no state of constant size:
decoding keeps phi(k) and v. b has a number for each distance up to the maximum length, and none beyond.
Shapes: B batch, T queries, S keys, D model width, G groups, R heads per group, H = G R, K key dim = V value dim,
N features, L longest sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, normal
from searchspace.primitives.caches import append
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.linear import EPS, positive_random_features, unit
from searchspace.primitives.toeplitz import toeplitz_product
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class NPRF(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.N, self.L = spec["num_features"], context.layout.max_len
        axes = (Axis.of(G=self.G, R=self.R), Axis.of(L=self.L))
        self.declare("bias_past", axes, normal(0.02))
        if not self.causal:
            self.declare("bias_future", axes, normal(0.02))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.features(x, tokens)
        if not self.causal:
            return self.output(self.by_transform(q, k, v), x), None
        if state:
            k, v = append(state["k"], k), append(state["v"], v)
        return self.output(self.by_pairs(q, k, v), x), {"k": k, "v": v} if state else None

    def features(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, N] and phi(k) [B, T, G, N] (0 at padding), v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        q, k = (positive_random_features(unit(t), self.N) for t in (q, k))
        k = tokens.without_padding(k)
        return q.unflatten(2, (self.G, self.R)), k, v

    def bias(self, offsets: Tensor) -> Tensor:
        """b of offsets j - i [...] -> [H, ...], minus each head's maximum, which changes no output."""
        past = self.bias_past[:, (-offsets).clamp(0, self.L - 1)]
        b = past
        if not self.causal:
            b = torch.where(offsets > 0, self.bias_future[:, offsets.clamp(0, self.L - 1)], past)
        b = b.to(recurrence.state_dtype(b.dtype))
        return b - b.flatten(1).amax(1).view(-1, *[1] * offsets.dim())

    def by_transform(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, T, G, R, V + 1]: the weighted values and the sum of weights."""
        T, dtype = k.shape[1], recurrence.state_dtype(k.dtype)
        near = self.bias(torch.arange(1 - T, T, device=k.device)).exp().view(self.G, self.R, 1, 1, -1)
        counted = F.pad(v.to(dtype), (0, 1), value=1.0)
        u = (k.to(dtype).unsqueeze(-1) * counted.unsqueeze(3)).permute(0, 2, 3, 4, 1).unsqueeze(2)
        return torch.einsum("btgrn,bgrnvt->btgrv", q.to(dtype), toeplitz_product(near, u))

    def by_pairs(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `by_transform`, from a weight for each pair, for the last T of S tokens: [B, T, G, R, V + 1]."""
        places, dtype = torch.arange(k.shape[1], device=k.device), recurrence.state_dtype(k.dtype)
        offsets = places - places[k.shape[1] - q.shape[1] :].unsqueeze(1)  # [T, S]
        near = (self.bias(offsets).exp() * (offsets <= 0)).unflatten(0, (self.G, self.R))
        products = q.to(dtype).permute(0, 2, 3, 1, 4).flatten(2, 3) @ k.to(dtype).permute(0, 2, 3, 1)
        weights = products.unflatten(2, (self.R, -1)) * near  # [B, G, R, T, S]
        counted = F.pad(v.to(dtype), (0, 1), value=1.0).transpose(1, 2)
        o = weights.flatten(2, 3) @ counted
        return o.unflatten(2, (self.R, -1)).permute(0, 3, 1, 2, 4)

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V + 1] and x [B, T, D] -> [B, T, D]."""
        o = o[..., :-1] / o[..., -1:].clamp_min(EPS)
        return self.merge_heads(o.flatten(2, 3).to(x.dtype))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        k = torch.empty(batch_size, 0, self.G, self.N, device=device, dtype=dtype)
        return {"k": k, "v": k.new_empty(batch_size, 0, self.G, self.K)}


def reference(module: NPRF, x: Tensor, tokens: Tokens) -> Tensor:
    """One query at a time. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.features(x, tokens)
    T, rows = x.shape[1], []
    for i in range(T):
        total = torch.zeros_like(q[:, i, ..., :1])
        o = total * v[:, i].unsqueeze(2)
        for j in range(i + 1 if module.causal else T):
            b = module.bias_past[:, i - j] if j <= i else module.bias_future[:, j - i]
            near = b.exp().view(module.G, module.R, 1)
            w = (q[:, i] * k[:, j].unsqueeze(2)).sum(-1, keepdim=True) * near
            total, o = total + w, o + w * v[:, j].unsqueeze(2)
        rows.append(o / total.clamp_min(EPS))
    return module.merge_heads(torch.stack(rows, 1).flatten(2, 3))


def flops(module: NPRF, T: int, S: int) -> int:
    """Return the FLOPs without the Fourier transforms."""
    mapped = 2 * T * (module.H + module.G) * module.K * module.N
    if module.causal:
        return mapped + 2 * T * S * module.H * (module.N + module.K + 1)
    return mapped + 2 * T * module.H * module.N * (module.K + 1)


OPERATOR = Operator(
    name="nprf",
    slot="mixer",
    paper="Luo et al. 2021, arXiv:2106.12566",
    build=NPRF,
    reference=reference,
    choices={**HEAD_CHOICES, "num_features": (16, 32)},
    flops=flops,
    state_bytes=state_size.every_token,
    fixed_length=True,
    catalogue=(86,),
    complexity="T log T H N V; causal T S H (N + V)",
    state="S G (N + V)",
)
