"""LAWCAT: normalised gated linear attention on queries and keys that a short convolution mixes with their past.

    q', k' = phi(conv(W x))          S_t = diag(a_t) S_{t-1} + k'_t v_t^T          z_t = a_t * z_{t-1} + k'_t
    y = W_o (S_t^T q'_t / (z_t . q'_t + eps))          log a_t = log sigmoid(W_2 W_1 x_t + b) / tau

Liu et al., "LAWCAT: Efficient Distillation from Quadratic to Linear Attention with Convolution across Tokens for Long
Context Modeling", arXiv:2509.18467. The weights of a row are non-negative and sum to 1. Convolutions start as the
identity.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K head dim, N features, P gate rank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, fan_in, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6
GATE_RANK = 16


class Lawcat(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.tau, self.taps = spec["tau"], spec["conv_taps"]
        self.feature_map: FeatureMap = registry.build(  # type: ignore[assignment]
            "feature_map", spec["feature_map"], context, self.G, self.K
        )
        self.N: int = self.feature_map.num_features
        group, rank = Axis.of(G=self.G, K=self.K), Axis.of(P=GATE_RANK)
        self.q_conv = DepthwiseConv(Axis.of(G=self.G, R=self.R, K=self.K), self.taps, causal=True)
        self.k_conv = DepthwiseConv(group, self.taps, causal=True)
        for conv in (self.q_conv, self.k_conv):
            conv.declare("weight", conv.declared["weight"].axes, first_tap)
        # one gate per feature, so that numerator and divisor decay equally
        self.declare("feature_decay_reduce", (rank, Axis.of(D=context.d_model)), fan_in())
        self.declare("feature_decay_expand", (Axis.of(G=self.G, N=self.N), rank), fan_in())
        self.declare("feature_decay_bias", (Axis.of(G=self.G, N=self.N),), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, q_kept = self.q_conv(self.q_proj(x), tokens, state["q"] if state else None)
        k, k_kept = self.k_conv(self.k_proj(x), tokens, state["k"] if state else None)
        q, k, counted, log_a = self.features(q, k, x, tokens)
        o, S = recurrence.recurrence_chunked(q, k, counted, log_a, state["S"] if state else None)
        y = self.o_proj((o[..., :-1] / (o[..., -1:] + EPS)).flatten(2))
        return y, {"S": S, "q": q_kept, "k": k_kept} if state else None

    def features(
        self, q: Tensor, k: Tensor, x: Tensor, tokens: Tokens
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, N], phi(k) and log decay [B, T, G, N], v with a column of ones [B, T, G, V + 1].

        Padding neither writes nor forgets.
        """
        q = self.feature_map(q.unflatten(2, (self.G, self.R, self.K)))
        k = self.feature_map.of_keys(k.unflatten(2, (self.G, self.K)))
        gate = F.linear(x, self.feature_decay_reduce)
        gate = F.linear(gate, self.feature_decay_expand, self.feature_decay_bias)
        log_a = F.logsigmoid(gate).unflatten(2, (self.G, self.N)) / self.tau
        k, log_a = tokens.without_padding(k), tokens.without_padding(log_a)
        v = self.v_proj(x).unflatten(2, (self.G, self.K))
        return q, k, F.pad(v, (0, 1), value=1.0), log_a

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        convs = {name: getattr(self, f"{name}_conv").init_state(batch_size, device, dtype) for name in "qk"}
        return convs | {"S": recurrence.empty_state(batch_size, self.G, self.N, self.K + 1, device, dtype)}


def first_tap(weight: Tensor) -> None:
    """Fill `weight` [C, k] so that every channel starts as the token itself."""
    weight.zero_()
    weight[:, 0] = 1.0


def reference(module: Lawcat, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for each pair of tokens, divided by their sum. x [B, T, D] -> [B, T, D]."""
    q = convolved(module.q_conv, module.q_proj(x), tokens)
    k = convolved(module.k_conv, module.k_proj(x), tokens)
    q, k, counted, log_a = module.features(q, k, x, tokens)
    total = log_a.cumsum(1)
    rows = []
    for i in range(x.shape[1]):
        faded = (total[:, i : i + 1] - total[:, : i + 1]).exp() * k[:, : i + 1]
        weights = torch.einsum("bgrn,bjgn->bgrj", q[:, i], faded)
        weights = weights / (weights.sum(-1, keepdim=True) + EPS)
        rows.append(torch.einsum("bgrj,bjgv->bgrv", weights, counted[:, : i + 1, :, :-1]))
    return module.o_proj(torch.stack(rows, 1).flatten(2))


def flops(module: Lawcat, T: int, S: int) -> int:
    G, H, K, N = module.G, module.H, module.K, module.N
    gate = 2 * T * (module.feature_decay_reduce.numel() + module.feature_decay_expand.numel())
    mapped = module.feature_map.flops(T * (H + G)) + module.q_conv.flops(T) + module.k_conv.flops(T)
    return gate + mapped + recurrence.chunked_flops(T, H, G, N, K + 1, vector_decay=True)


OPERATOR = Operator(
    name="lawcat",
    slot="mixer",
    paper="LAWCAT, Liu et al. 2025, arXiv:2509.18467",
    build=Lawcat,
    reference=reference,
    choices={
        **HEAD_CHOICES,
        "feature_map": Nested("feature_map", ("elu_plus_one", "hedgehog")),
        "conv_taps": (2, 4),
        "tau": (1, 8, 16),
    },
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    catalogue=(17,),
    complexity="T H N V",
    state="G N (V + 1) + (taps - 1) (H + G) K",
)
