"""The Omega rule: a linear memory that takes, at each token, one gradient step on the last c key-value pairs.

    G_t = sum_{t - c < i <= t} gamma_i phi(k_i) (phi(k_i)^T S_{t-1} - v_i^T)          S_t = alpha_t S_{t-1} - eta_t M_t
    M_t = G_t, with momentum theta_t M_{t-1} + G_t          phi(x) = unit(x + sum_{p = 2}^P a_p x^p)
    o_t = S_t^T phi(q_t)          y = W_o (w * rms(o_t))

Behrouz et al., "ATLAS: Learning to Optimally Memorize the Context at Test Time", arXiv:2505.23735, the linear memory
with gradient steps (OmegaNet). alpha, gamma and theta are sigmoids of x_t, eta a sigmoid divided by c, so that with
unit keys a step never overshoots. A window of 1 is the delta rule with beta = eta gamma. Powers are taken per channel.

Left out are the Muon step of Atlas, which orthogonalizes M_t by five Newton-Schulz products, and memories that are
MLPs: neither is linear in the memory, so the tokens of a chunk can't be composed and must be computed one by one, in
hundreds of small products per sequence. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K
key dim = V value dim, c window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, constant, fan_in, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.delta import unit
from searchspace.primitives.dense_scan import dense_scan, dense_scan_flops
from searchspace.primitives.heads import GroupedHeads
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6
KEEP_BIAS = 4.0  # alpha starts near 0.98


class Omega(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window, self.degree = spec["window"], spec["degree"]
        groups, d_model = Axis.of(G=self.G), Axis.of(D=context.d_model)
        for name in ("keep", "rate", "pair"):
            self.declare(f"{name}_weight", (groups, d_model), fan_in())
        self.declare("keep_bias", (groups,), constant(KEEP_BIAS))
        self.momentum = spec.get("momentum", False)
        if self.momentum:
            self.declare("momentum_weight", (groups, d_model), fan_in())
        if self.degree > 1:
            self.declare("power_weights", (Axis.of(powers=self.degree - 1),), taylor)
        self.declare("norm_weight", (Axis.of(K=self.K),), ones)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v, gamma = self.pairs(x, tokens)
        alpha, eta = self.steps(x, tokens)
        wide = recurrence.state_dtype(x.dtype)
        earlier = state or self.init_state(x.shape[0], x.device, x.dtype)
        seen = {"k": k, "v": v, "gamma": gamma}
        if self.window > 1:
            seen = {n: torch.cat((earlier[n], t), 1) for n, t in seen.items()}
        keys, values = (seen[n].to(wide).unfold(1, self.window, 1) for n in "kv")  # [B, T, G, ., c]
        weighted = keys * seen["gamma"].to(wide).unfold(1, self.window, 1).unsqueeze(3)
        eye = torch.eye(self.K, dtype=wide, device=x.device)
        alpha, eta = (t.to(wide)[..., None, None] for t in (alpha, eta))
        if self.momentum:
            S, last = self.with_momentum(
                x, tokens, alpha * eye, eta, weighted @ keys.mT, weighted @ values.mT, earlier
            )
        else:
            weighted = weighted * eta
            A = alpha * eye - weighted @ keys.mT
            S, after = dense_scan(A, weighted @ values.mT, earlier["S"])
            last = {"S": after}
        o = (q.to(wide) @ S).to(x.dtype)
        kept = {n: t[:, x.shape[1] :].clone() for n, t in seen.items() if self.window > 1}
        return self.output(o), kept | last if state else None

    def with_momentum(
        self, x: Tensor, tokens: Tokens, keep: Tensor, eta: Tensor, A: Tensor, b: Tensor, earlier: State
    ) -> tuple[Tensor, State]:
        """The states of all tokens [B, T, G, K, V] and the last ones, where G_t = A_t S_{t-1} - b_t.

        S and M stacked are one linear recurrence: with M_t = theta M_{t-1} + A S_{t-1} - b, S_t = (alpha - eta A)
        S_{t-1} - eta theta M_{t-1} + eta b. keep [B, T, G, K, K], eta [B, T, G, 1, 1].
        """
        theta = torch.sigmoid(F.linear(x, self.momentum_weight)).to(A.dtype)
        if tokens.valid is not None:  # padding leaves M unchanged
            real = tokens.valid[..., None]
            theta, A, b = torch.where(real, theta, 1.0), A * real[..., None, None], b * real[..., None, None]
        carried = theta[..., None, None] * torch.eye(self.K, dtype=A.dtype, device=x.device)
        rows = torch.cat((keep - eta * A, -eta * carried), -1), torch.cat((A, carried), -1)
        both = torch.cat((earlier["S"], earlier["M"]), -2)
        found, last = dense_scan(torch.cat(rows, -2), torch.cat((eta * b, -b), -2), both)
        S, M = (t.clone() for t in last.split(self.K, -2))
        return found[..., : self.K, :], {"S": S, "M": M}

    def pairs(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, K], phi(k) [B, T, G, K], v [B, T, G, V], gamma [B, T, G], 0 at padding."""
        q, k, v = self.queries_keys_values(x)
        gamma = torch.sigmoid(F.linear(x, self.pair_weight))
        gamma = tokens.without_padding(gamma)
        return self.features(q).unflatten(2, (self.G, self.R)), self.features(k), v, gamma

    def features(self, x: Tensor) -> Tensor:
        """x [..., K] -> unit vectors [..., K]."""
        powers = [self.power_weights[p - 2] * x**p for p in range(2, self.degree + 1)]
        return unit(sum(powers, x))

    def steps(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """alpha and eta [B, T, G]: 1 and 0 at padding."""
        alpha = torch.sigmoid(F.linear(x, self.keep_weight, self.keep_bias))
        eta = torch.sigmoid(F.linear(x, self.rate_weight)) / self.window
        if tokens.valid is None:
            return alpha, eta
        real = tokens.valid.unsqueeze(-1)
        return torch.where(real, alpha, 1.0), eta * real

    def output(self, o: Tensor) -> Tensor:
        """o [B, T, G, R, V] -> [B, T, D]."""
        return self.o_proj(F.rms_norm(o, o.shape[-1:], self.norm_weight, EPS).flatten(2))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G, self.K, self.K, device, dtype)
        state: State = {"S": S, "M": S.clone()} if self.momentum else {"S": S}
        if self.window == 1:
            return state
        pairs = torch.zeros(batch_size, self.window - 1, self.G, self.K, device=device, dtype=dtype)
        return state | {"k": pairs, "v": pairs.clone(), "gamma": pairs[..., 0].clone()}


def taylor(weights: Tensor) -> None:
    """Fill `weights` [degree - 1] with 1 / p! for p = 2, 3, ..."""
    weights.copy_(torch.tensor([1 / math.factorial(p + 2) for p in range(len(weights))]))


def reference(module: Omega, x: Tensor, tokens: Tokens) -> Tensor:
    """By the gradient step of each token, pair by pair. x [B, T, D] -> [B, T, D]."""
    q, k, v, gamma = module.pairs(x, tokens)
    alpha, eta = module.steps(x, tokens)
    S = x.new_zeros(len(x), module.G, module.K, module.K)
    step, outputs = torch.zeros_like(S), []
    for t in range(x.shape[1]):
        gradient = torch.zeros_like(S)
        for i in range(max(0, t - module.window + 1), t + 1):
            error = torch.einsum("bgk,bgkv->bgv", k[:, i], S) - v[:, i]
            gradient = gradient + torch.einsum("bg,bgk,bgv->bgkv", gamma[:, i], k[:, i], error)
        if module.momentum:
            carried = torch.sigmoid(x[:, t] @ module.momentum_weight.T)[..., None, None] * step + gradient
            real = torch.tensor([tokens.is_real(b, t) for b in range(len(x))])[:, None, None, None]
            step = torch.where(real, carried, step)
        else:
            step = gradient
        S = alpha[:, t, :, None, None] * S - eta[:, t, :, None, None] * step
        outputs.append(torch.einsum("bgrk,bgkv->bgrv", q[:, t], S))
    return module.output(torch.stack(outputs, 1))


def flops(module: Omega, T: int, S: int) -> int:
    G, H, K = module.G, module.H, module.K
    gates = 2 * T * 3 * module.keep_weight.numel()
    gates += 2 * T * module.keep_weight.numel() if module.momentum else 0
    scan = dense_scan_flops(T, 2 * K if module.momentum else K, K)
    return gates + 4 * T * G * module.window * K * K + G * scan + 2 * T * H * K * K


OPERATOR = Operator(
    name="omega",
    slot="mixer",
    paper="Behrouz et al. 2025, arXiv:2505.23735",
    build=Omega,
    ranges={"degree": Range(1, 8)},
    reference=reference,
    choices={
        "num_groups": (1, 2, 4),
        "heads_per_group": (1, 2),
        "head_dim": (8, 16),
        "window": (1, 4, 16),
        "degree": (1, 2, 3),
    },
    options={"momentum": (False, True)},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    catalogue=(20,),
    complexity="T G K^3",
    state="G K V + (c - 1) G (2 K + 1), with momentum another G K V",
)
