"""LinFusion: bidirectional linear attention with means over the tokens, and queries and keys from a residual MLP.

    q = W_q (x + MLP_q(x))          k = W_k (x + MLP_k(x))          MLP = W_2 leaky_relu(layernorm(W_1 x))
    o_i = phi(q_i)^T mean_j phi(k_j) v_j^T / (phi(q_i) . mean_j phi(k_j) + eps)          phi = elu + 1

Liu et al., "LinFusion: 1 GPU, 1 Minute, 16K Image", arXiv:2409.02097. Means make it independent of the resolution. The
MLP acts on the whole width, before the split into heads; a width of 0 leaves it out. Shapes: B batch, T time, D model
width, G groups, R heads per group, H = G R, K key dim = V value dim, F hidden width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence
from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.linear import pair_weights, weigh
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-4
NORM_EPS = 1e-5


class ResidualMLP(AxisModule):
    """x [B, T, D] -> x + W_2 leaky_relu(layernorm(W_1 x))."""

    def __init__(self, context: BuildContext, width: int) -> None:
        super().__init__()
        hidden, d_model = Axis.of(F=width), Axis.of(D=context.d_model)
        self.up_proj = context.linear("up", hidden, d_model)
        self.down_proj = context.linear("down", d_model, hidden)
        self.declare("norm_weight", (hidden,), ones)
        self.declare("norm_bias", (hidden,), zeros)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up_proj(x)
        h = F.layer_norm(h, h.shape[-1:], self.norm_weight, self.norm_bias, NORM_EPS)
        return x + self.down_proj(F.leaky_relu(h))


class LinFusion(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.has_mlp = spec["mlp_width"] > 0
        if self.has_mlp:
            self.q_mlp = ResidualMLP(context, spec["mlp_width"])
            self.k_mlp = ResidualMLP(context, spec["mlp_width"])

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v, n = self.mapped(x, tokens)
        o = recurrence.sum_over_all(q, k / n, F.pad(v, (0, 1), value=1.0))
        o = o[..., :-1] / (o[..., -1:] + EPS)
        return self.merge_heads(o.flatten(2, 3).to(x.dtype)), None

    def mapped(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, K], phi(k) [B, T, G, K] (0 at padding), v [B, T, G, V], number of tokens [B, 1, 1, 1]."""
        dtype = recurrence.state_dtype(x.dtype)
        q = self.q_proj(self.q_mlp(x) if self.has_mlp else x).to(dtype)
        k = self.k_proj(self.k_mlp(x) if self.has_mlp else x).to(dtype)
        k, v = k.unflatten(2, (self.G, self.K)), self.v_proj(x).to(dtype).unflatten(2, (self.G, self.K))
        real = tokens.real(k)
        n = real.sum(1, keepdim=True).clamp_min(1.0)
        return elu_plus_one(q).unflatten(2, (self.G, self.R, self.K)), elu_plus_one(k) * real, v, n


def reference(module: LinFusion, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v, n = module.mapped(x, tokens)
    weights = pair_weights(q, k, causal=False)
    o = weigh(weights / (weights.sum(-1, keepdim=True) + EPS * n.unsqueeze(-1)), v)
    return module.merge_heads(o.flatten(2, 3).to(x.dtype))


def flops(module: LinFusion, T: int, S: int) -> int:
    return recurrence.sum_over_all_flops(T, module.H, module.G, module.K, module.K + 1)


OPERATOR = Operator(
    name="linfusion",
    slot="mixer",
    paper="Liu et al. 2024, arXiv:2409.02097",
    build=LinFusion,
    ranges={"mlp_width": COUNT},
    reference=reference,
    choices={**HEAD_CHOICES, "mlp_width": (0, 16, 32)},
    flops=flops,
    causal=False,
    quantizable=("q", "k", "v", "o", "up", "down"),
    catalogue=(65,),
    complexity="T H K V + T D F",
)
