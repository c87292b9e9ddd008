"""mLSTM: a matrix memory with an exponential input gate, kept in range by the largest gate so far.

    C_t = f_t C_{t-1} + i_t k_t v_t^T          n_t = f_t n_{t-1} + i_t k_t          log i_t = c(W_i x_t + b_i)
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)      log f_t = log sigmoid(c(W_f x_t + b_f))          c(z) = 15 tanh(z / 15)
    y = W_o (sigmoid(W_g x_t) * w * layernorm(h_t))          with q_t divided by sqrt(K)

Beck et al., "xLSTM: Extended Long Short-Term Memory", arXiv:2405.04517; soft caps of the gates, norm over each head and
output gate as in "xLSTM 7B", arXiv:2503.13427. To avoid overflow, with m_t = max(log f_t + m_{t-1}, log i_t), the state
is exp(-m_t) C_t: a gated recurrence with decays exp(log f_t + m_{t-1} - m_t) and keys exp(log i_t - m_t) k_t, all
factors at most 1. Its values have a last column of ones for n_t, and the 1 in the maximum becomes exp(-m_t). Published
values are twice as wide as keys: `expand_v` 2, see `searchspace.primitives.wide_heads`. Heads share the norm's weights.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim, V value dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import constant, fan_in, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.primitives.wide_heads import EXPAND_V, WideHeads
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6
CAP = 15.0
FAR = 80.0  # exp(FAR) is finite in float32
NOTHING = -1e4  # log of the memory before the first token; finite, so that gradients are finite
INPUT_BIAS, FORGET_BIAS = -10.0, 3.0  # as published: initially little is written, and little forgotten


class MatrixLSTM(WideHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        for gate, bias in (("input", INPUT_BIAS), ("forget", FORGET_BIAS)):
            self.declare(self.named(f"{gate}_gate_weight"), (self.states, self.d_model), fan_in())
            self.declare(self.named(f"{gate}_gate_bias"), (self.states,), constant(bias))
        self.declare(self.named("norm_weight"), (self.width,), ones)
        self.add_module(self.named("gate_proj"), context.linear("gate", self.reads, self.d_model))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.mapped(x, tokens)
        log_i, log_f = self.log_gates(x, tokens)
        before = state["largest"].unsqueeze(1) if state else log_i.new_full(log_i[:, :1].shape, NOTHING)
        with torch.no_grad():  # the result does not depend on it
            total = log_f.cumsum(1)
            largest = total + torch.cat((before, log_i - total), 1).cummax(1).values[:, 1:]
            earlier = torch.cat((before, largest[:, :-1]), 1)
        # the memory is empty where nothing came before, so any decay is correct, and 0 loses no precision
        log_a = torch.where(earlier < NOTHING / 2, 0.0, log_f + earlier - largest)
        k = k * (log_i - largest).exp().unsqueeze(-1)
        v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
        o, S = recurrence.recurrence_chunked(q, k, v, log_a.unsqueeze(-1), state["S"] if state else None)
        one = (-largest).clamp_max(FAR).exp()[..., None, None]
        h = o[..., :-1] / torch.maximum(o[..., -1:].abs(), one)
        return self.output(h, x), {"S": S, "largest": largest[:, -1].clone()} if state else None

    def mapped(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """q / sqrt(K) [B, T, G, R, K], k [B, T, G, K], 0 at padding, and v [B, T, G, V], in at least float32."""
        dtype = recurrence.state_dtype(x.dtype)
        q = self.q_proj(x).unflatten(2, (self.G, self.R, self.K)).to(dtype) / math.sqrt(self.K)
        k = tokens.without_padding(self.k_proj(x).unflatten(2, (self.G, self.K)).to(dtype))
        return q, k, self.own("v_proj")(x).unflatten(2, (self.G, self.V)).to(dtype)

    def log_gates(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """log i and log f [B, T, G] in at least float32; padding writes nothing and forgets nothing."""
        names = ("input_gate", "forget_gate")
        log_i, z = (F.linear(x, self.own(f"{n}_weight"), self.own(f"{n}_bias")) for n in names)
        log_i, z = (CAP * torch.tanh(t.to(recurrence.state_dtype(x.dtype)) / CAP) for t in (log_i, z))
        log_f = tokens.without_padding(F.logsigmoid(z))
        return log_i if tokens.valid is None else log_i.masked_fill(
            ~tokens.valid.unsqueeze(-1), NOTHING
        ), log_f

    def output(self, h: Tensor, x: Tensor) -> Tensor:
        """h [B, T, G, R, V], x [B, T, D] -> [B, T, D]."""
        h = F.layer_norm(h, h.shape[-1:], None, None, EPS).to(x.dtype) * self.own("norm_weight")
        y: Tensor = self.own("o_proj")(torch.sigmoid(self.own("gate_proj")(x)) * h.flatten(2))
        return y

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G, self.K, self.V + 1, device, dtype)
        return {"S": S, "largest": torch.full_like(S[..., 0, 0], NOTHING)}


def reference(module: MatrixLSTM, x: Tensor, tokens: Tokens) -> Tensor:
    """By the weight of every pair of tokens, i_j f_{j+1} .. f_i q_i . k_j, without scaling by a largest gate.

    x [B, T, D] -> [B, T, D].
    """
    q, k, v = module.mapped(x, tokens)
    log_i, log_f = module.log_gates(x, tokens)
    total = log_f.cumsum(1).transpose(1, 2)  # [B, G, T]
    log_weights = total.unsqueeze(-1) - total.unsqueeze(-2) + log_i.transpose(1, 2).unsqueeze(-2)
    weights = torch.where(torch.ones_like(log_weights).tril() > 0, log_weights, -torch.inf).exp()
    pairs = torch.einsum("bigrk,bjgk->bgrij", q, k) * weights.unsqueeze(2)
    scale = pairs.sum(-1).abs().clamp_min(1.0).permute(0, 3, 1, 2).unsqueeze(-1)
    return module.output(torch.einsum("bgrij,bjgv->bigrv", pairs, v) / scale, x)


def flops(module: MatrixLSTM, T: int, S: int) -> int:
    gates = 4 * T * module.own("input_gate_weight").numel()
    return gates + recurrence.chunked_flops(T, module.H, module.G, module.K, module.V + 1)


OPERATOR = Operator(
    name="mlstm",
    slot="mixer",
    paper="Beck et al. 2024, arXiv:2405.04517; xLSTM 7B, arXiv:2503.13427",
    build=MatrixLSTM,
    reference=reference,
    choices=HEAD_CHOICES,
    fixed={"expand_v": 1},
    ranges={"expand_v": EXPAND_V},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o", "gate"),
    catalogue=(130,),
    complexity="T H K V",
    state="G K (V + 1)",
)
