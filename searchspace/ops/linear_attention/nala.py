"""Norm-aware linear attention: the longer a query, the more its weights concentrate on few keys.

    phi_q = [relu(u)^p, relu(-u)^p]     u = q / |q|     p = lambda (1/2 + tanh |q|)
    phi_k = [relu(k^e), relu(-k^e)]     e = 1 or 3
    o_i = sum_j R phi_q(q_i) . R phi_k(k_j) v_j / (sum_j phi_q(q_i) . phi_k(k_j) + eps) + conv(v)_i
    y = W_o (layernorm(o) * silu(W_g x))

Meng et al., "NaLaFormer: Norm-Aware Linear Attention", arXiv:2506.21137, with the split by sign of the released code. R
denotes rotary positions on each half, in the numerator only, so weights sum to 1 only without them. The causal form,
with prefix sums and a convolution over the last tokens, is ours. Shapes: B batch, T time, D model width, G groups, R
heads per group, H = G R, K key dim = V value dim; 2 K features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import linear, recurrence, state_size
from searchspace.primitives.axes import Axis, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.registry import ODD, Operator, Range
from searchspace.spec.arch import OpSpec

NORM_EPS = 1e-5


class NaLa(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.power, self.key_exponent = spec["power"], spec["key_exponent"]
        heads = Axis.of(G=self.G, R=self.R, K=self.K)
        self.gate_proj = context.linear("gate", heads, Axis.of(D=context.d_model))
        self.value_conv = DepthwiseConv(Axis.of(G=self.G, K=self.K), spec["kernel_size"], self.causal)
        self.declare("out_norm_weight", (heads,), ones)
        self.declare("out_norm_bias", (heads,), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.features(x, tokens)
        S, z = (state["S"], state["z"]) if state else (None, None)
        total, z = linear.read(self.grouped(q), k, torch.ones_like(k[..., :1]), self.causal, z)
        turned_q, turned_k = self.grouped(self.turn(q, tokens)), self.turn(k, tokens)
        o, S = linear.read(turned_q, turned_k, v, self.causal, S)
        near, kept = self.value_conv(v.flatten(2).to(x.dtype), tokens, state["conv"] if state else None)
        y = self.output((o / (total + linear.EPS)).flatten(2, 3), near, x)
        return y, {"S": S, "z": z, "conv": kept} if state else None

    def features(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """phi_q [B, T, H, 2 K], phi_k [B, T, G, 2 K] (0 at padding), v [B, T, G, V]."""
        q, k, v = (t.to(recurrence.state_dtype(x.dtype)) for t in self.queries_keys_values(x))
        exponent = self.power * (0.5 + torch.tanh(q.norm(dim=-1, keepdim=True)))
        k = by_sign(k**self.key_exponent)
        k = tokens.without_padding(k)
        return by_sign(linear.unit(q)) ** exponent, k, v

    def grouped(self, q: Tensor) -> Tensor:
        """q [B, T, H, C] -> [B, T, G, R, C]."""
        return q.unflatten(2, (self.G, self.R))

    def turn(self, features: Tensor, tokens: Tokens) -> Tensor:
        """Rotary positions on each half of features [B, T, H, 2 K]."""
        halves = features.unflatten(-1, (2, self.K)).flatten(2, 3)
        return rotate(halves, tokens).unflatten(2, (-1, 2)).flatten(3)

    def output(self, o: Tensor, near: Tensor, x: Tensor) -> Tensor:
        """o [B, T, H, V], near [B, T, G V], x [B, T, D] -> [B, T, D]."""
        o = (o.to(x.dtype) + self.per_head(near.unflatten(2, (self.G, self.K)))).flatten(2)
        o = F.layer_norm(o, o.shape[-1:], self.out_norm_weight, self.out_norm_bias, NORM_EPS)
        return self.o_proj(o * F.silu(self.gate_proj(x)))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = linear.empty_state(batch_size, self.G, 2 * self.K, self.K, device, dtype)
        conv = self.value_conv.init_state(batch_size, device, dtype)
        return S | {"z": torch.zeros_like(S["S"][..., :1]), "conv": conv}


def by_sign(x: Tensor) -> Tensor:
    """x [..., K] -> [relu(x), relu(-x)], [..., 2 K]."""
    return torch.cat((x, -x), -1).relu()


def reference(module: NaLa, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v = module.features(x, tokens)
    weights = linear.pair_weights(module.grouped(q), k, module.causal)
    turned_q, turned_k = module.grouped(module.turn(q, tokens)), module.turn(k, tokens)
    turned = linear.pair_weights(turned_q, turned_k, module.causal)
    o = linear.weigh(turned / (weights.sum(-1, keepdim=True) + linear.EPS), v)
    near = convolved(module.value_conv, v.flatten(2).to(x.dtype), tokens)
    return module.output(o.flatten(2, 3), near, x)


def flops(module: NaLa, T: int, S: int) -> int:
    reads = (linear.read_flops(module.causal, T, module.H, module.G, 2 * module.K, V) for V in (1, module.K))
    return sum(reads) + module.value_conv.flops(T)


OPERATOR = Operator(
    name="nala",
    slot="mixer",
    paper="Meng et al. 2025, arXiv:2506.21137",
    build=NaLa,
    ranges={
        "kernel_size": ODD,
        "power": Range(1, 16),
        "key_exponent": Range(1, 9, "an even power loses the sign", step=2),
    },
    reference=reference,
    choices={**HEAD_CHOICES, "power": (2, 3), "key_exponent": (1, 3), "kernel_size": (3, 5)},
    flops=flops,
    state_bytes=state_size.fixed,
    needs_2d=True,
    rope=True,
    quantizable=("q", "k", "v", "o", "gate"),
    catalogue=(107,),
    complexity="T H 2 K V",
    state="G (2 K (V + 1) + (w - 1) V)",
)
