"""Selective dense state space: each token mixes a dictionary of dense matrices into the state's transition.

    A_t = sum_m pi_tm A_m with each column divided by its p-norm          pi_t = softmax(W_s x_t + b_s)
    h_t = A_t h_{t-1} + W_b x_t          y_t = W_y layernorm(h_t)

Terzic et al., "On the Expressiveness and Length Generalization of Selective State-Space Models on Regular Languages",
arXiv:2412.19350. With p = 1 no state grows in sum of absolute values, and a one-hot pi over permutations is a finite
automaton. `norm_tenths` is 10 p.
Shapes: B batch, T time, D model width, N state width, M matrices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule, fan_in, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.dense_scan import dense_scan, dense_scan_flops
from searchspace.primitives.recurrence import state_dtype
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class SelectiveDenseSSM(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.N, self.M, self.p = spec["state_dim"], spec["num_matrices"], spec["norm_tenths"] / 10
        d_model, states, matrices = Axis.of(D=context.d_model), Axis.of(N=self.N), Axis.of(M=self.M)
        self.declare("select_weight", (matrices, d_model), fan_in())
        self.declare("select_bias", (matrices,), zeros)
        self.declare("dictionary", (matrices, states, states), uniform)
        self.declare("state_norm_weight", (states,), ones)
        self.declare("state_norm_bias", (states,), zeros)
        self.write_proj = context.linear("write", states, d_model)
        self.read_proj = context.linear("o", d_model, states)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        A, b = self.steps(x, tokens)
        h = state["h"] if state else b.new_zeros(x.shape[0], self.N)
        states, last = dense_scan(A, b.unsqueeze(-1), h.unsqueeze(-1))
        return self.output(states.squeeze(-1), x), {"h": last.squeeze(-1)} if state else None

    def steps(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """A [B, T, N, N] and b [B, T, N] in the precision of the state: the identity and 0 at padding."""
        dtype = state_dtype(x.dtype)
        share = F.linear(x, self.select_weight, self.select_bias).to(dtype).softmax(-1)
        A = (share @ self.dictionary.to(dtype).flatten(1)).unflatten(-1, (self.N, self.N))
        A = self.normed(A)
        b = self.write_proj(x).to(dtype)
        if tokens.valid is None:
            return A, b
        eye = torch.eye(self.N, dtype=dtype, device=x.device)
        return torch.where(tokens.valid[..., None, None], A, eye), b * tokens.valid.unsqueeze(-1)

    def normed(self, A: Tensor) -> Tensor:
        """A [..., N, N] -> each column divided by its p-norm (sum |A|^p)^(1/p), [..., N, N].

        A small constant keeps a column of zeros at 0.
        """
        size = (A.square() + EPS**2).sqrt().pow(self.p).sum(-2, keepdim=True).pow(1 / self.p)
        return A / size

    def output(self, h: Tensor, x: Tensor) -> Tensor:
        """h [B, T, N] -> [B, T, D]."""
        h = F.layer_norm(h.to(x.dtype), (self.N,), self.state_norm_weight, self.state_norm_bias, EPS)
        return self.read_proj(h)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return {"h": torch.zeros(batch_size, self.N, device=device, dtype=state_dtype(dtype))}


def uniform(dictionary: Tensor) -> None:
    """Fill the `dictionary` [..., N] by Xavier initialisation."""
    bound = math.sqrt(6 / (2 * dictionary.shape[-1]))
    dictionary.uniform_(-bound, bound)


def reference(module: SelectiveDenseSSM, x: Tensor, tokens: Tokens) -> Tensor:
    """Token by token. x [B, T, D] -> [B, T, D]."""
    A, b = module.steps(x, tokens)
    h, found = torch.zeros_like(b[:, 0]), []
    for t in range(x.shape[1]):
        h = (A[:, t] * h.unsqueeze(1)).sum(-1) + b[:, t]
        found.append(h)
    return module.output(torch.stack(found, 1), x)


def flops(module: SelectiveDenseSSM, T: int, S: int) -> int:
    choose = 2 * T * (module.select_weight.numel() + module.dictionary.numel())
    return choose + dense_scan_flops(T, module.N, 1)


OPERATOR = Operator(
    name="sd_ssm",
    slot="mixer",
    paper="Terzic et al. 2024, arXiv:2412.19350",
    build=SelectiveDenseSSM,
    ranges={"norm_tenths": Range(10, 1000, "below p = 1 there is no norm")},
    reference=reference,
    choices={"state_dim": (16, 32), "num_matrices": (4, 8), "norm_tenths": (10, 12, 14)},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    catalogue=(121,),
    complexity="T N^3",
    state="N",
)
