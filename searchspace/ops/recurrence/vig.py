"""ViG's mixer: gated linear attention over an image in both directions, plus a local depthwise convolution.

    o = (GLA(q, k, v; a_forward) + reversed GLA(q, k, v; a_backward)) / 2
    log a = log sigmoid(W_2 W_1 x + b) / 16
    y = W_o (silu(W_g x) * (s * w * rms(o) + (1 - s) * u * rms(conv(v))))          s = sigmoid(V_2 V_1 x)

Liao et al., "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention", arXiv:2405.18425. Tokens are
in row order; the two scans share q, k and v, and their mean counts the token itself once. The convolution of the values
is 3 x 3 over the grid. The convolution before the mixer in their block is not part of it. Shapes: B batch, T time, D
model width, G groups, R heads per group, H = G R, K key dim = V value dim, P gate rank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence
from searchspace.primitives.axes import Axis, fan_in, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6
TEMPERATURE = 16.0
RANK = 16
WAYS = ("decay", "backward_decay")


class ViG(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        d_model, group = Axis.of(D=context.d_model), Axis.of(G=self.G, K=self.K)
        heads, rank = Axis.of(G=self.G, R=self.R, K=self.K), Axis.of(P=RANK)
        for way in WAYS:
            self.declare(f"{way}_reduce", (rank, d_model), fan_in())
            self.declare(f"{way}_expand", (group, rank), fan_in())
            self.declare(f"{way}_bias", (group,), zeros)
        self.declare("blend_reduce", (rank, d_model), fan_in())
        self.declare("blend_expand", (heads, rank), fan_in())
        self.declare("norm_weight", (Axis.of(K=self.K),), ones)
        self.declare("local_norm_weight", (Axis.of(K=self.K),), ones)
        self.v_conv_2d = DepthwiseConv(group, 3, causal=False)
        self.gate_proj = context.linear("gate", heads, d_model)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v = self.features(x, tokens)
        forward, backward = (self.log_decay(x, tokens, way) for way in WAYS)
        o, _ = recurrence.recurrence_chunked(q, k, v, forward)
        back, _ = recurrence.recurrence_chunked(q.flip(1), k.flip(1), v.flip(1), backward.flip(1))
        local, _ = self.v_conv_2d(v.flatten(2), tokens)
        return self.output((o + back.flip(1)) / 2, local, x), None

    def features(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, T, G, R, K], k [B, T, G, K] (0 at padding), v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        k = tokens.without_padding(k)
        return q.unflatten(2, (self.G, self.R)), k, v

    def log_decay(self, x: Tensor, tokens: Tokens, way: str) -> Tensor:
        """x [B, T, D] -> log decay [B, T, G, K] in direction `way`, 0 at padding."""
        reduce, expand, bias = (getattr(self, f"{way}_{part}") for part in ("reduce", "expand", "bias"))
        log_a = F.logsigmoid(F.linear(F.linear(x, reduce), expand, bias)) / TEMPERATURE
        log_a = tokens.without_padding(log_a)
        return log_a.unflatten(2, (self.G, self.K))

    def output(self, o: Tensor, local: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V], local [B, T, G V], x [B, T, D] -> [B, T, D]."""
        blend = torch.sigmoid(F.linear(F.linear(x, self.blend_reduce), self.blend_expand)).view_as(o)
        o = F.rms_norm(o, o.shape[-1:], self.norm_weight, EPS)
        local = local.unflatten(2, (self.G, 1, self.K))
        local = F.rms_norm(local, local.shape[-1:], self.local_norm_weight, EPS)
        y = blend * o + (1 - blend) * local
        return self.o_proj(y.flatten(2) * F.silu(self.gate_proj(x)))


def reference(module: ViG, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens with the decay between them, the backward gate's for later tokens.

    x [B, T, D] -> [B, T, D].
    """
    q, k, v = module.features(x, tokens)
    total, back = (module.log_decay(x, tokens, way).cumsum(1) for way in WAYS)
    back_start = back - module.log_decay(x, tokens, WAYS[1])  # sums before each token
    o = torch.zeros_like(q)
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            earlier = (total[:, i] - total[:, j]).exp() if j <= i else 0.0
            later = (back_start[:, j] - back_start[:, i]).exp() if j >= i else 0.0
            weight = ((earlier + later) / 2 * k[:, j]).unsqueeze(2) * q[:, i]  # [B, G, R, K]
            o[:, i] = o[:, i] + weight.sum(-1, keepdim=True) * v[:, j].unsqueeze(2)
    return module.output(o, convolved(module.v_conv_2d, v.flatten(2), tokens), x)


def flops(module: ViG, T: int, S: int) -> int:
    gates = sum(getattr(module, f"{name}_{part}").numel() for name in WAYS for part in ("reduce", "expand"))
    blend = module.blend_reduce.numel() + module.blend_expand.numel()
    scan = recurrence.chunked_flops(T, module.H, module.G, module.K, module.K, vector_decay=True)
    return 2 * T * (gates + blend) + 2 * scan + module.v_conv_2d.flops(T)


OPERATOR = Operator(
    name="vig",
    slot="mixer",
    paper="Liao et al. 2024, arXiv:2405.18425",
    build=ViG,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=flops,
    causal=False,
    needs_2d=True,
    quantizable=("q", "k", "v", "o", "gate"),
    catalogue=(78,),
    complexity="2 T H K V",
)
