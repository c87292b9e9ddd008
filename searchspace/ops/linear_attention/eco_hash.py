"""EcoFormer attention: queries and keys are binary codes, so that attention needs only additions.

    c(x) = sign(W (exp(-|u - a|^2 / 2 s) - m)) in {-1, 1}^N          u = x / |x|, a the anchors, s their mean distance
    w_ij = c(q_i) . c(k_j) + N + 1 >= 1          o_i = sum_j w_ij v_j / sum_j w_ij          q = k

Liu et al., "EcoFormer: Energy-Saving Attention with Linear Complexity", arXiv:2209.09004. Anchors are tokens; W is
learned from the softmax attention between the layer's own tokens, bit by bit: +1 for pairs that attend most, -1 for
those that attend least (kernel-based supervised hashing). Each bit is the solution of the spectral relaxation instead
of gradient steps, and s is constant, since one that depends on the input would look ahead. Gradients pass the sign
where its argument is within [-1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import linear, state_size
from searchspace.primitives.axes import Axis, AxisModule, constant, normal, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

SAMPLE = 128  # tokens from which the codes are learned
NUM_SIMILAR = 10  # per token, how many of these count as most and as least similar
RIDGE = 1e-3


class EcoHash(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, self.K, self.causal = spec["num_groups"], spec["head_dim"], context.causal
        self.M, self.N = spec["num_anchors"], spec["num_bits"]
        d_model, heads = Axis.of(D=context.d_model), Axis.of(G=self.G, K=self.K)
        self.k_proj = context.linear("k", heads, d_model)
        self.v_proj = context.linear("v", heads, d_model)
        self.o_proj = context.linear("o", d_model, Axis.of(G=self.G, R=1, K=self.K))
        G, M = Axis.of(G=self.G), Axis.of(M=self.M)
        self.declare("hash_anchors", (G, M, Axis.of(K=self.K)), normal(1 / math.sqrt(self.K)), "calibrated")
        self.declare("hash_width", (G,), ones, "calibrated")
        self.declare("hash_mean", (G, M), constant(math.exp(-1.0)), "calibrated")
        self.declare("hash_weight", (G, Axis.of(N=self.N), M), normal(1.0), "calibrated")

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        codes, v = self.codes(self.keys(x)), self.v_proj(x).unflatten(2, (self.G, self.K))
        constant = torch.full_like(codes[..., :1], math.sqrt(self.N + 1))  # adds N + 1 to every product
        q = torch.cat((codes, constant), -1)
        k = tokens.without_padding(q)
        o, S = linear.normalized_read(q.unsqueeze(3), k, v, self.causal, state["S"] if state else None)
        return self.o_proj(o.flatten(2).to(x.dtype)), {"S": S} if state else None

    def keys(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> keys (= queries) [B, T, G, K]."""
        return self.k_proj(x).unflatten(2, (self.G, self.K))

    def closeness(self, k: Tensor) -> Tensor:
        """k [B, T, G, K] -> closeness to each anchor [B, T, G, M], from 0 to 1."""
        u = linear.unit(k)
        products = (u.unsqueeze(3) @ self.hash_anchors.mT).squeeze(3)
        distance = u.square().sum(-1, keepdim=True) + self.hash_anchors.square().sum(-1) - 2 * products
        return torch.exp(-distance / (2 * self.hash_width.unsqueeze(-1)))

    def codes(self, k: Tensor) -> Tensor:
        """k [B, T, G, K] -> codes of -1 and 1 [B, T, G, N]."""
        bits = ((self.closeness(k) - self.hash_mean).unsqueeze(3) @ self.hash_weight.mT).squeeze(3)
        straight = bits.clamp(-1.0, 1.0)
        return torch.where(bits >= 0, 1.0, -1.0).to(bits.dtype) + (straight - straight.detach())

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return linear.empty_state(batch_size, self.G, self.N + 1, self.K + 1, device, dtype)


def reference(module: EcoHash, x: Tensor, tokens: Tokens) -> Tensor:
    """The quadratic form: a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    codes, v = module.codes(module.keys(x)), module.v_proj(x).unflatten(2, (module.G, module.K))
    weights = torch.einsum("bign,bjgn->bgij", codes, codes) + module.N + 1
    if tokens.valid is not None:
        weights = weights * tokens.valid[:, None, None, :]
    weights = weights.tril() if module.causal else weights
    weights = weights / (weights.sum(-1, keepdim=True) + linear.EPS)
    return module.o_proj(torch.einsum("bgij,bjgv->bigv", weights, v).flatten(2))


@torch.no_grad()
def calibrate(module: EcoHash, batches: list[tuple[Tensor, Tokens]]) -> None:
    """Set anchors, their mean distance and the codes from the layer's own tokens [B, T, D]; deterministic."""
    found = []
    for x, tokens in batches:
        k = module.keys(x)
        found.append(k[tokens.valid] if tokens.valid is not None else k.flatten(0, 1))
    k = evenly_spaced(torch.cat(found), SAMPLE)  # [n, G, K]
    anchors = evenly_spaced(linear.unit(k), module.M).transpose(0, 1)
    module.hash_anchors.copy_(anchors)
    module.hash_width.copy_(torch.cdist(linear.unit(k).transpose(0, 1), anchors).square().mean((1, 2)))
    closeness = module.closeness(k.unsqueeze(0))[0]  # [n, G, M]
    module.hash_mean.copy_(closeness.mean(0))
    centred = closeness - module.hash_mean
    for g in range(module.G):
        module.hash_weight[g].copy_(learned_bits(centred[:, g], similarity(k[:, g]), module.N))


def evenly_spaced(rows: Tensor, count: int) -> Tensor:
    """Return `count` evenly spaced rows of rows [n, ...], with repeats; at most n for a sample (count = SAMPLE)."""
    count = min(count, len(rows)) if count == SAMPLE else count
    return rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()]


def similarity(k: Tensor) -> Tensor:
    """k [n, K] -> [n, n], symmetrised: 1 for pairs that attend most, -1 for least, else 0."""
    attention = (k @ k.T / math.sqrt(k.shape[1])).softmax(-1)
    num_similar = min(NUM_SIMILAR, max(1, len(k) // 2))
    target = torch.zeros_like(attention)
    target.scatter_(1, attention.topk(num_similar, largest=False).indices, -1.0)
    target.scatter_(1, attention.topk(num_similar).indices, 1.0)
    return (target + target.T) / 2


def learned_bits(centred: Tensor, target: Tensor, num_bits: int) -> Tensor:
    """Weights [N, M] for which products of codes approximate N times `target` [n, n], each bit fitting the remainder.

    A bit y = sign(centred w), centred [n, M], should maximise y^T S y; relaxed, w is the top generalised eigenvector of
    (centred^T S centred, centred^T centred).
    """
    size = centred.T @ centred
    ridge = RIDGE * size.diagonal().mean() * torch.eye(len(size), dtype=size.dtype, device=size.device)
    lower = torch.linalg.cholesky(size + ridge)
    left, bits = num_bits * target, []
    for _ in range(num_bits):
        half = torch.linalg.solve_triangular(lower, centred.T @ left @ centred, upper=False)
        whitened = torch.linalg.solve_triangular(lower, half.mT, upper=False)
        top = torch.linalg.eigh((whitened + whitened.mT) / 2).eigenvectors[:, -1:]
        w = torch.linalg.solve_triangular(lower.mT, top, upper=True).squeeze(1)
        w = w / (centred @ w).abs().mean().clamp_min(
            torch.finfo(w.dtype).tiny
        )  # arguments of the sign around 1
        y = torch.where(centred @ w >= 0, 1.0, -1.0).to(w.dtype)
        left = left - y[:, None] * y[None, :]
        bits.append(w)
    return torch.stack(bits)


def flops(module: EcoHash, T: int, S: int) -> int:
    hashed = 2 * T * module.G * module.M * (module.K + module.N)
    return hashed + linear.read_flops(module.causal, T, module.G, module.G, module.N + 1, module.K + 1)


OPERATOR = Operator(
    name="eco_hash",
    slot="mixer",
    paper="Liu et al. 2022, arXiv:2209.09004",
    build=EcoHash,
    reference=reference,
    choices={"num_groups": (1, 2, 4), "head_dim": (16, 32), "num_bits": (8, 16), "num_anchors": (16, 32)},
    flops=flops,
    state_bytes=state_size.fixed,
    calibrate=calibrate,
    quantizable=("k", "v", "o"),
    catalogue=(13,),
    complexity="T H (M (K + N) + N V)",
    state="H (N + 1) (V + 1)",
)
