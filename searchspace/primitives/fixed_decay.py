"""Linear attention whose state decays at a fixed rate per group, followed by an unweighted norm and a gate.

    S_t = a_g S_{t-1} + k_t v_t^T          o_t = S_t^T q_t          q, k = silu(W x)
    y = W_o (srms(o_t) * gate(x_t))

srms(x) = x / rms(x) over all heads together or over each head. Decay schedules, g = 0 .. G - 1, layer l of L:

    alibi    log a_g = -m_g (1 - l / (L - 1) + 1e-5), m the ALiBi slopes of G heads: the last layer hardly decays
    retnet   a_g = 1 - 2^(-5 - g), the same in every layer

Qin et al., arXiv:2307.14995 and arXiv:2405.17381 (exponents as in their code, not in the paper); Sun et al., "Retentive
Network", arXiv:2307.08621. The heads of a group read one state, so the rate belongs to the group, and a sub-network
keeps the rates of its groups. LRPE, learned rotary angles theta per channel instead of per pair, makes the score sum_c
q_ic k_jc cos(theta_c (i - j)) with twice the state: Qin et al., "Linearized Relative Positional Encoding",
arXiv:2307.09270.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value dim, P gate rank.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence
from searchspace.primitives.axes import Axis, fan_in
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import GroupedHeads
from searchspace.primitives.score_bias import alibi_slopes
from searchspace.spec.arch import OpSpec

EPS = 1e-6
GATE_RANK = 16
SCHEDULES = ("alibi", "retnet")
NORMS = ("all", "head")


def log_decays(schedule: str, G: int, layer: int, num_layers: int) -> list[float]:
    """Return log a_g of every group."""
    if schedule == "retnet":
        return [math.log1p(-(2.0 ** (-5 - g))) for g in range(G)]
    factor = 1.0 - layer / max(1, num_layers - 1) + 1e-5
    return [-slope * factor for slope in alibi_slopes(G)]


def _start(schedule: str, layer: int, num_layers: int, tensor: Tensor) -> None:
    tensor.copy_(torch.tensor(log_decays(schedule, len(tensor), layer, num_layers), dtype=torch.float64))


class FixedDecayAttention(GroupedHeads):
    """Hyperparameters: norm (of NORMS) and, where the operator has them, decay (of SCHEDULES), chunk and lrpe.

    gate: "low_rank" is sigmoid(W_2 W_1 x), "linear" is W_g x.
    """

    def __init__(self, spec: OpSpec, context: BuildContext, gate: str) -> None:
        super().__init__(spec, context)
        self.norm, self.chunk = spec["norm"], spec.get("chunk", recurrence.CHUNK)
        schedule = spec.get("decay", "alibi")
        self.decay_name = f"{schedule}_log_decay"
        start = partial(_start, schedule, context.layer, context.num_layers)
        self.declare(self.decay_name, (Axis.of(G=self.G),), start, role="fixed")
        d_model, heads = Axis.of(D=context.d_model), Axis.of(G=self.G, R=self.R, K=self.K)
        self.low_rank = gate == "low_rank"
        if self.low_rank:
            self.declare("gate_reduce", (Axis.of(P=GATE_RANK), d_model), fan_in())
            self.declare("gate_expand", (heads, Axis.of(P=GATE_RANK)), fan_in())
        else:
            self.gate_proj = context.linear("gate", heads, d_model)
        self.lrpe = bool(spec.get("lrpe", False))
        if self.lrpe:
            self.declare("lrpe_theta", (Axis.of(G=self.G, K=self.K),), lrpe_angles)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v, log_a = self.decayed(x, tokens)
        o, S = recurrence.recurrence_chunked(q, k, v, log_a, state["S"] if state else None, self.chunk)
        return self.output(o, x), {"S": S} if state else None

    def decayed(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q [B, T, G, R, F], k [B, T, G, F], v [B, T, G, V], log decay [B, T, G, 1], F = 2 K with LRPE.

        Padding neither writes nor forgets.
        """
        q, k, v = self.queries_keys_values(x)
        q, k = F.silu(q).unflatten(2, (self.G, self.R)), F.silu(k)
        B, T = x.shape[:2]
        dtype = recurrence.state_dtype(x.dtype)  # bfloat16 would round a slow decay to none
        log_a = self.log_decay.to(dtype).view(1, 1, self.G, 1)
        log_a = log_a.expand(B, T, -1, -1)
        if self.lrpe:
            cos, sin = self.turns(tokens, T, x)
            q = torch.cat((q * cos.unsqueeze(-2), q * sin.unsqueeze(-2)), -1)
            k = torch.cat((k * cos, k * sin), -1)
        k, log_a = tokens.without_padding(k), tokens.without_padding(log_a)
        return q, k, v, log_a

    @property
    def log_decay(self) -> Tensor:
        """log a_g [G]."""
        return self.get_buffer(self.decay_name)

    def turns(self, tokens: Tokens, T: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of position times theta, [T, G, K] or [B, T, G, K]."""
        dtype = recurrence.state_dtype(x.dtype)
        positions = torch.arange(T, device=x.device) if tokens.positions is None else tokens.positions
        angle = positions.to(dtype)[..., None, None] * self.lrpe_theta.view(self.G, self.K).to(dtype)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V], x [B, T, D] -> [B, T, D]."""
        o = F.rms_norm(o, o.shape[-1:] if self.norm == "head" else o.shape[-3:], None, EPS).flatten(2)
        if not self.low_rank:
            return self.o_proj(o * self.gate_proj(x))
        return self.o_proj(o * torch.sigmoid(F.linear(F.linear(x, self.gate_reduce), self.gate_expand)))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (batch_size, self.G, feature_width(self), self.K)
        return {"S": recurrence.empty_state(*shape, device, dtype)}


def lrpe_angles(theta: Tensor) -> None:
    """Fill `theta` [n] with 10000^(-2 i / n) for the n channels of all groups."""
    theta.copy_(10000.0 ** (-2.0 * torch.arange(len(theta)) / len(theta)))


def feature_width(module: FixedDecayAttention) -> int:
    return 2 * module.K if module.lrpe else module.K


def quadratic_reference(module: FixedDecayAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for each pair of tokens: the decay to the power of their distance in real tokens.

    x [B, T, D] -> [B, T, D].
    """
    q, k, v = module.queries_keys_values(x)
    B, T = x.shape[:2]
    q, k = F.silu(q).unflatten(2, (module.G, module.R)), F.silu(k)
    real = torch.ones(B, T, dtype=torch.bool, device=x.device) if tokens.valid is None else tokens.valid
    place = real.to(x.dtype).cumsum(1)
    distance = place.unsqueeze(2) - place.unsqueeze(1)  # [B, i, j]
    rates = module.log_decay.to(x.dtype)
    weights = (distance.clamp_min(0)[:, None] * rates[:, None, None]).exp() * real[:, None, None]
    weights = weights.tril().unsqueeze(2)  # [B, G, 1, i, j]
    if module.lrpe:
        turn = distance[..., None, None] * module.lrpe_theta.view(module.G, module.K)  # [B, i, j, G, K]
        scores = torch.einsum("bigrk,bjgk,bijgk->bgrij", q, k, turn.cos())
    else:
        scores = torch.einsum("bigrk,bjgk->bgrij", q, k)
    return module.output(torch.einsum("bgrij,bjgv->bigrv", scores * weights, v), x)


def flops(module: FixedDecayAttention, T: int, S: int) -> int:
    gate = 2 * T * (module.gate_reduce.numel() + module.gate_expand.numel()) if module.low_rank else 0
    width = feature_width(module)
    return gate + recurrence.chunked_flops(T, module.H, module.G, width, module.K, module.chunk)
