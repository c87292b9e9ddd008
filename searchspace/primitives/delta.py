"""Mixers with the delta rule: the state removes its old answer to a key before it learns the new value.

    q, k = unit(silu(conv(W x)))          v = silu(conv(W_v x))          beta_t = beta_max sigmoid(W_b x_t)
    S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T          o_t = S_t^T q_t

DeltaNet: a_t = 1, y = W_o (w * rms(o_t)). Gated DeltaNet: log a_t = -exp(A) softplus(W_a x_t + b) per group, and
y = W_o (w * rms(o_t) * silu(W_g x_t)). With beta_max 2 an eigenvalue of the transition may be negative. The norm over
each head cancels the scale 1 / sqrt(K), which is left out. Wider and grouped values: searchspace.primitives.wide_heads.
Shapes: B batch, T time, D model width, G groups, M values of a key, R heads per group, H = G M R, K key dim, V value
dim, J taps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence
from searchspace.primitives.axes import Axis, AxisModule, fan_in, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.wide_heads import EXPAND_V, VALUES_PER_KEY, WideHeads
from searchspace.registry import EPSILON, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6
CHOICES = {"conv_taps": (2, 4), "beta_max": (1, 2)}
BETA_MAX = Range(1, 2, "beyond 2 the state grows from token to token")
FIXED = {"expand_v": 1, "values_per_key": 1, "norm_eps": EPS}
RANGES = {"beta_max": BETA_MAX, "expand_v": EXPAND_V, "values_per_key": VALUES_PER_KEY, "norm_eps": EPSILON}


class DeltaAttention(WideHeads):
    def __init__(self, spec: OpSpec, context: BuildContext, gated: bool) -> None:
        super().__init__(spec, context)
        self.taps, self.beta_max, self.gated = spec["conv_taps"], spec["beta_max"], gated
        self.norm_eps = spec.get("norm_eps", EPS)
        heads, group = Axis.of(G=self.G, R=self.R, K=self.K), Axis.of(G=self.G, K=self.K)
        self.q_conv = DepthwiseConv(heads, self.taps, causal=True)
        self.k_conv = DepthwiseConv(group, self.taps, causal=True)
        self.add_module(self.named("v_conv"), DepthwiseConv(self.values, self.taps, causal=True))
        self.declare(self.named("beta_weight"), (self.states, self.d_model), fan_in())
        self.declare(self.named("norm_weight"), (self.width,), ones)
        if gated:
            self.declare(self.named("step_weight"), (self.states, self.d_model), fan_in())
            self.declare(self.named("step_bias"), (self.states,), step_bias)
            self.declare(self.named("log_rate"), (self.states,), zeros)
            self.add_module(self.named("gate_proj"), context.linear("gate", self.reads, self.d_model))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        kept: State = {}
        mixed = []
        for name, projection, conv in self.paths():
            y, kept[name] = conv(projection(x), tokens, state[name] if state else None)
            mixed.append(y)
        q, k, v = self.unit_keys(*mixed)
        beta, log_a = self.gates(x, tokens)
        S = state["S"] if state else None
        o, kept["S"] = recurrence.recurrence_chunked(q, k, v, log_a, S, beta=beta)
        return self.output(o, x), kept if state else None

    def paths(self) -> list[tuple[str, AxisModule, DepthwiseConv]]:
        """(name, projection, convolution) of q, k and v."""
        return [
            ("q", self.q_proj, self.q_conv),
            ("k", self.k_proj, self.k_conv),
            ("v", self.own("v_proj"), self.own("v_conv")),
        ]

    def unit_keys(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convolved [B, T, G R K], [B, T, G K], [B, T, G M V] -> unit q [B, T, G M, R, K], unit k [B, T, G M, K] and
        v [B, T, G M, V], where a key is repeated for each of its values.
        """
        q = unit(F.silu(q).unflatten(2, (self.G, self.R, self.K)))
        k = unit(F.silu(k).unflatten(2, (self.G, self.K)))
        if self.M > 1:
            q, k = q.repeat_interleave(self.M, 2), k.repeat_interleave(self.M, 2)
        return q, k, F.silu(v).unflatten(2, (self.G * self.M, self.V))

    def gates(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """beta [B, T, G M] and log decay [B, T, G M, 1], both 0 at padding, which neither writes nor forgets."""
        beta = tokens.without_padding(self.beta_max * torch.sigmoid(F.linear(x, self.own("beta_weight"))))
        if not self.gated:
            return beta, None
        step = F.softplus(F.linear(x, self.own("step_weight"), self.own("step_bias")))
        return beta, tokens.without_padding(-self.own("log_rate").exp() * step).unsqueeze(-1)

    def normed(self, o: Tensor) -> Tensor:
        """o [B, T, G M, R, V] -> [B, T, G M R V]."""
        return F.rms_norm(o, o.shape[-1:], self.own("norm_weight"), self.norm_eps).flatten(2)

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G M, R, V], x [B, T, D] -> [B, T, D]."""
        o = self.normed(o)
        y: Tensor = self.own("o_proj")(o * F.silu(self.own("gate_proj")(x)) if self.gated else o)
        return y

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G * self.M, self.K, self.V, device, dtype)
        return {"S": S} | {name: conv.init_state(batch_size, device, dtype) for name, _, conv in self.paths()}


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis, computed in at least float32. x [..., K] -> [..., K]."""
    wide = x.to(recurrence.state_dtype(x.dtype))
    return (wide * (wide.square().sum(-1, keepdim=True) + EPS).rsqrt()).to(x.dtype)


def step_bias(bias: Tensor) -> None:
    """Fill `bias` [n] so that softplus(bias) is log-uniform from 1e-3 to 1e-1."""
    steps = torch.logspace(-3, -1, len(bias)) if len(bias) > 1 else torch.full_like(bias, 1e-2)
    bias.copy_(steps.expm1().log())


def delta_reference(module: DeltaAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """Tap by tap, then with the state's transition as a matrix, token by token. x [B, T, D] -> [B, T, D]."""
    mixed = [convolved(conv, projection(x), tokens) for _, projection, conv in module.paths()]
    q, k, v = module.unit_keys(*mixed)
    beta, log_a = module.gates(x, tokens)
    B, T = x.shape[:2]
    S = x.new_zeros(B, module.G * module.M, module.K, module.V)
    outputs = []
    for t in range(T):
        strength = beta[:, t, :, None, None]
        turn = torch.eye(module.K) - strength * k[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)
        turn = turn if log_a is None else turn * log_a[:, t].exp().unsqueeze(-2)
        S = turn.to(x.dtype) @ S + strength * k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(torch.einsum("bgrk,bgkv->bgrv", q[:, t], S))
    return module.output(torch.stack(outputs, 1), x)


def delta_flops(module: DeltaAttention, T: int, S: int) -> int:
    gates = 2 * T * module.own("beta_weight").numel() * (2 if module.gated else 1)
    return gates + mixing_flops(module, T)


def mixing_flops(module: DeltaAttention, T: int, vector_decay: bool = False) -> int:
    """Return the FLOPs of the convolutions and the recurrence."""
    G, convs = module.G * module.M, sum(conv.flops(T) for _, _, conv in module.paths())
    sizes = (G * module.R, G, module.K, module.V)
    return convs + recurrence.chunked_flops(T, *sizes, vector_decay=vector_decay, delta=True)
