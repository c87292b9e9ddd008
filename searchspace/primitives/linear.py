"""Normalised linear attention on given features, and what its variants share.

    o_i = sum_j w_ij v_j / (sum_j w_ij + eps)          w_ij = phi(q_i) . phi(k_j)

Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236. Bidirectional: a sum over all tokens. Causal: a
recurrence with state [G, N, V + 1], whose last value column sums the weights. Shapes: B batch, T time, G groups, R
heads per group, H = G R, K head dim, N features, V value dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.constants import kept
from searchspace.primitives.context import State, Tokens
from searchspace.primitives.convolution import DepthwiseConv
from searchspace.primitives.heads import GroupedHeads
from searchspace.spec.arch import OpSpec

EPS = 1e-6
NORM_EPS = 1e-5


class FeatureMap(AxisModule):
    """Maps head vectors x [B, T, G, R, K] to N non-negative features [B, T, G, R, N]; N is `num_features`."""

    def __init__(self, spec: OpSpec, num_features: int) -> None:
        super().__init__()
        self.op, self.num_features = spec.op, num_features

    def of_keys(self, x: Tensor) -> Tensor:
        """Features of keys x [B, T, G, K] -> [B, T, G, N], by default as for queries."""
        features: Tensor = self(x.unsqueeze(3))
        return features.squeeze(3)

    def flops(self, num_vectors: int) -> int:
        """Return the FLOPs of mapping this number of head vectors; a multiply-add counts 2."""
        return 0


class Pointwise(FeatureMap):
    """As many features as channels: a function of the vector [..., K] -> [..., K], without weights."""

    def __init__(self, spec: OpSpec, K: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(spec, K)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def pointwise(function: Callable[[Tensor], Tensor]) -> Callable[..., Pointwise]:
    """Return the build function of a feature map with this `function` of [..., K]."""
    return lambda spec, context, G, K: Pointwise(spec, K, function)


def read(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, S: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return o_i = sum_j (q_i . k_j) v_j over the keys that i sees, and the last state if causal.

    q [B, T, G, R, N], k [B, T, G, N], v [B, T, G, V] -> [B, T, G, R, V] and [B, G, N, V].
    """
    if causal:
        return recurrence.recurrence_chunked(q, k, v, None, S)
    return recurrence.sum_over_all(q, k, v), None


def normalized_read(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, S: Tensor | None = None, eps: float = EPS
) -> tuple[Tensor, Tensor | None]:
    """As `read`, with each row of weights divided by its sum plus `eps`; the state is [B, G, N, V + 1]."""
    o, S = read(q, k, F.pad(v, (0, 1), value=1.0), causal, S)
    return o[..., :-1] / (o[..., -1:] + eps), S


def pair_weights(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """q [B, T, G, R, N], k [B, T, G, N] -> a weight for each pair of tokens [B, G, R, T, T], for references."""
    weights = torch.einsum("bigrn,bjgn->bgrij", q, k)
    return weights.tril() if causal else weights


def weigh(weights: Tensor, v: Tensor) -> Tensor:
    """weights [B, G, R, T, T], v [B, T, G, V] -> [B, T, G, R, V]."""
    return torch.einsum("bgrij,bjgv->bigrv", weights, v)


def normalized_reference(q: Tensor, k: Tensor, v: Tensor, causal: bool, eps: float = EPS) -> Tensor:
    """`normalized_read` [B, T, G, R, V], by a weight for each pair of tokens."""
    weights = pair_weights(q, k, causal)
    return weigh(weights / (weights.sum(-1, keepdim=True) + eps), v)


def read_flops(causal: bool, T: int, H: int, G: int, N: int, V: int) -> int:
    count = recurrence.chunked_flops if causal else recurrence.sum_over_all_flops
    return count(T, H, G, N, V)


def empty_state(batch_size: int, G: int, N: int, V: int, device: torch.device, dtype: torch.dtype) -> State:
    return {"S": torch.zeros(batch_size, G, N, V, device=device, dtype=recurrence.state_dtype(dtype))}


class ConvolvedLinear(GroupedHeads):
    """Rectified linear attention plus the depthwise convolution `local` of `copies` parts of the values."""

    copies = 1

    def local(self) -> DepthwiseConv:
        raise NotImplementedError

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rectified(x, tokens)
        o, S = normalized_read(q, k, v, self.causal, state["S"] if state else None)
        near, kept = self.convolve(v, tokens, state)
        y = self.merge_heads((o + near.unsqueeze(3)).flatten(2, 3))
        return y, {"S": S, "conv": kept} if state else None

    def rectified(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """relu(q) [B, T, G, R, K], relu(k) [B, T, G, K] (0 at padding), v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        k = tokens.without_padding(k.relu())
        return q.relu().unflatten(2, (self.G, self.R)), k, v

    def convolve(self, v: Tensor, tokens: Tokens, state: State | None) -> tuple[Tensor, State | None]:
        """v [B, T, G, V] -> [B, T, G, V], each of `copies` parts of the channels convolved as its own sequence."""
        conv = self.local()
        v = tokens.without_padding(v.flatten(2))
        parts = v.unflatten(2, (self.copies, -1)).transpose(1, 2).flatten(0, 1)
        near, kept = conv(parts, tokens.replace(valid=None), state["conv"] if state else None)
        near = near.unflatten(0, (-1, self.copies)).transpose(1, 2)
        return near.reshape(*v.shape[:2], self.G, self.K), kept

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        conv = self.local().init_state(batch_size * self.copies, device, dtype)
        return empty_state(batch_size, self.G, self.K, self.K + 1, device, dtype) | {"conv": conv}

    def flops(self, T: int, S: int) -> int:
        return read_flops(
            self.causal, T, self.H, self.G, self.K, self.K + 1
        ) + self.copies * self.local().flops(T)


class HeadNorm(AxisModule):
    """Layer norm of each head x [B, T, H, K], with gain and shift per head."""

    def __init__(self, heads: Axis) -> None:
        super().__init__()
        self.declare("weight", (heads,), ones)
        self.declare("bias", (heads,), zeros)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[-2:]
        return F.layer_norm(x, shape[-1:], None, None, NORM_EPS) * self.weight.view(shape) + self.bias.view(
            shape
        )


class MeanLinear(GroupedHeads):
    """o_i = mean_j (q_i . k_j) v_j over the tokens that i sees, with q, k and v of the subclass; no feature map."""

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> q [B, T, H, K], k and v [B, T, G, K]."""
        raise NotImplementedError

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.operands(x)
        real = tokens.real(k)
        o, S = read(q.unflatten(2, (self.G, self.R)), k * real, v, self.causal, state["S"] if state else None)
        if not self.causal:
            n = real.sum(1, keepdim=True, dtype=recurrence.state_dtype(x.dtype))
        else:
            n = real.cumsum(1, dtype=recurrence.state_dtype(x.dtype)) + (state["count"] if state else 0.0)
        y = self.merge_heads((o / n.clamp_min(1.0).unsqueeze(-1)).to(x.dtype).flatten(2, 3))
        return y, {"S": S, "count": n[:, -1:].clone()} if state else None

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        state = empty_state(batch_size, self.G, self.K, self.K, device, dtype)
        return state | {"count": state["S"].new_zeros(batch_size, 1, 1, 1)}

    def flops(self, T: int, S: int) -> int:
        return read_flops(self.causal, T, self.H, self.G, self.K, self.K)


def mean_reference(module: MeanLinear, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.operands(x)
    k = tokens.without_padding(k)
    weights = pair_weights(q.unflatten(2, (module.G, module.R)), k, module.causal)
    n = tokens.real(k).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)  # [B, T, T]
    n = (n.tril() if module.causal else n).sum(-1).clamp_min(1.0)
    return module.merge_heads((weigh(weights, v) / n[:, :, None, None, None]).flatten(2, 3))


def unit(x: Tensor) -> Tensor:
    """x [..., K] -> x / |x|; 0 stays 0."""
    return F.normalize(x, dim=-1, eps=EPS)


def positive_random_features(x: Tensor, num_features: int) -> Tensor:
    """x [..., K] -> exp(w_n . x - |x|^2 / 2) / sqrt(N) [..., N]. Choromanski et al., arXiv:2009.14794."""
    directions = random_directions(num_features, x.shape[-1], x.device, x.dtype)
    exponent = x @ directions.T - x.square().sum(-1, keepdim=True) / 2
    return exponent.exp() / math.sqrt(num_features)


@kept(128)
def random_directions(num_features: int, K: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return Gaussian directions [N, K], orthogonal in blocks of K, deterministic for given sizes."""
    generator = torch.Generator().manual_seed(K)
    blocks = []
    for _ in range(-(-num_features // K)):
        gaussian = torch.randn(2, K, K, generator=generator, dtype=torch.float64, device="cpu")
        orthogonal, upper = torch.linalg.qr(gaussian[0])
        uniform = orthogonal * upper.diag().sign()  # without the signs, directions would not be uniform
        blocks.append(uniform * gaussian[1].norm(dim=-1, keepdim=True))
    return torch.cat(blocks)[:num_features].to(device, dtype)
