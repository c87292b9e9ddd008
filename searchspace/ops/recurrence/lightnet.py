"""LightNet: a recurrence that averages instead of forgetting, with softmax weights over time for each key channel.

    w_tjc = exp(l_jc) / sum_{i <= t} exp(l_ic)          (S_t)_c = sum_{j <= t} w_tjc v_j          o_t = S_t^T silu(q_t)
    y = W_o (w * rms(o_t) * silu(W_2 W_1 x_t))

As a recurrence, with L_t = log sum_{i <= t} exp(l_i): log a_t = L_{t-1} - L_t and k_t = exp(l_t - L_t). In a
bidirectional network the sums are over all tokens, in one pass. Qin et al., "You Only Scan Once: Efficient
Multi-dimension Sequential Modeling with LightNet", arXiv:2405.21022; nothing precedes the first token here, not even a
value of 0.

    rotary = "global"    channel c of silu(q) and of the weights is doubled, times cos(theta_c t) and sin(theta_c t),
                         so that what i reads of j is scaled by cos(theta_c (t_i - t_j)); theta t are the network's
                         rotary angles, one for two channels. With rope_2d every second pair belongs to the rows and the
                         others to the columns: MD-LRPE. The state is twice as wide.

MD-TPE, learned moving averages of the input along each axis of the grid, is not part of this mixer but a position
encoding of the network's input, like `learned`. Shapes: B batch, T time, D model width, G groups, R heads per group, H
= G R, K key dim = V value dim, N = K or 2 K features, P gate rank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, fan_in, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6
GATE_RANK = 16
NOTHING = -1e4  # the log of a sum over no tokens; finite, so that gradients are finite


class LightNet(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.is_turned = spec.get("rotary", "none") != "none"
        self.N = 2 * self.K if self.is_turned else self.K
        rank, heads = Axis.of(P=GATE_RANK), Axis.of(G=self.G, R=self.R, K=self.K)
        self.declare("gate_reduce", (rank, Axis.of(D=context.d_model)), fan_in())
        self.declare("gate_expand", (heads, rank), fan_in())
        self.declare("norm_weight", (Axis.of(K=self.K),), ones)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, logits, v, real = self.logits(x, tokens)
        if not self.causal:
            q, k = self.turned(q, tokens), self.turned(logits.softmax(1) * real, tokens).to(x.dtype)
            return self.output(recurrence.sum_over_all(q, k, v), x), None
        before = logits.new_full(logits[:, :1].shape, NOTHING)
        if state:
            before = state["log_sum"].unsqueeze(1)
        log_sum = torch.cat((before, logits), 1).logcumsumexp(1)
        k = (logits - log_sum[:, 1:]).exp() * real
        # the state is empty where nothing came before, so any decay is correct, and 0 loses no precision
        log_a = torch.where(log_sum[:, :-1] < NOTHING / 2, 0.0, log_sum[:, :-1] - log_sum[:, 1:])
        log_a = torch.cat((log_a, log_a), -1) if self.is_turned else log_a
        q, k = self.turned(q, tokens), self.turned(k, tokens)
        o, S = recurrence.recurrence_chunked(q, k, v, log_a, state["S"] if state else None)
        kept = {"S": S, "log_sum": log_sum[:, -1].clone()}
        return self.output(o, x), kept if state else None

    def turned(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, G, ..., K] -> [B, T, G, ..., N]; angles are 0 where the network has no rotary positions."""
        if not self.is_turned:
            return x
        if tokens.rotary is None:
            return torch.cat((x, torch.zeros_like(x)), -1)
        cos, sin = (self.of_channels(t, x.dim()).to(x.dtype) for t in tokens.rotary)
        return torch.cat((x * cos, x * sin), -1)

    def of_channels(self, t: Tensor, dim: int) -> Tensor:
        """cos or sin [T, angles] or [B, T, angles] -> [.., T, 1, ..., K], with `dim` axes after the batch axis."""
        t = t[..., : self.K // 2].repeat_interleave(2, -1)
        return t[(..., *[None] * (dim - 3), slice(None))]

    def logits(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """silu(q) [B, T, G, R, K], l [B, T, G, K] (NOTHING at padding), v [B, T, G, V], real [B, T, 1, 1]."""
        q, logits, v = self.queries_keys_values(x)
        logits = logits.to(recurrence.state_dtype(x.dtype))
        if tokens.valid is None:
            real = torch.ones_like(logits[..., :1, :1], dtype=torch.bool)
        else:
            real = tokens.valid[:, :, None, None]
            logits = logits.masked_fill(~real, NOTHING)
        return F.silu(q).unflatten(2, (self.G, self.R)), logits, v, real

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V], x [B, T, D] -> [B, T, D]."""
        o = F.rms_norm(o, o.shape[-1:], self.norm_weight, EPS).flatten(2)
        return self.o_proj(o * F.silu(F.linear(F.linear(x, self.gate_reduce), self.gate_expand)))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G, self.N, self.K, device, dtype)
        return {"S": S, "log_sum": torch.full_like(S[:, :, : self.K, 0], NOTHING)}


def reference(module: LightNet, x: Tensor, tokens: Tokens) -> Tensor:
    """Softmax weights over the tokens seen, for each query and key channel. x [B, T, D] -> [B, T, D]."""
    q, logits, v, real = module.logits(x, tokens)
    B, T = x.shape[:2]
    visible = real.squeeze(-1).transpose(1, 2).expand(B, T, T)
    visible = (visible.tril() if module.causal else visible)[..., None, None]  # [B, i, j, 1, 1]
    weights = logits.unsqueeze(1).masked_fill(~visible, -1e9).softmax(2) * visible  # [B, i, j, G, K]
    if module.is_turned and tokens.rotary is not None:
        angles = torch.atan2(tokens.rotary[1], tokens.rotary[0])[..., : module.K // 2].repeat_interleave(
            2, -1
        )
        apart = angles.unsqueeze(-2) - angles.unsqueeze(-3)  # [.., i, j, K]
        weights = weights * apart.cos().unsqueeze(-2)
    return module.output(torch.einsum("bigrk,bijgk,bjgv->bigrv", q, weights.to(x.dtype), v), x)


def flops(module: LightNet, T: int, S: int) -> int:
    gate = 2 * T * (module.gate_reduce.numel() + module.gate_expand.numel())
    if not module.causal:
        return gate + recurrence.sum_over_all_flops(T, module.H, module.G, module.N, module.K)
    return gate + recurrence.chunked_flops(T, module.H, module.G, module.N, module.K, vector_decay=True)


OPERATOR = Operator(
    name="lightnet",
    slot="mixer",
    paper="Qin et al. 2024, arXiv:2405.21022",
    build=LightNet,
    reference=reference,
    choices=HEAD_CHOICES,
    options={"rotary": ("none", "global")},
    rope=True,
    flops=flops,
    state_bytes=state_size.fixed,
    catalogue=(94,),
    complexity="T H N V",
    state="G (N V + K)",
)
