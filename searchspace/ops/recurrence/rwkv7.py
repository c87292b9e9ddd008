"""RWKV-7: a recurrence with a decay per channel that erases its content under a key chosen by the token.

    S_t = (diag(w_t) - (a_t * e_t) e_t^T) S_{t-1} + k_t v_t^T          e_t = unit(xi * W_k x^k_t)
    w_t = exp(-exp(-1/2) sigmoid(L_w(x^w_t)))          a_t = sigmoid(L_a(x^a_t))
    k_t = (1 + alpha (a_t - 1)) * W_k x^k_t
    p_t = groupnorm(S_t^T r_t) + (r_t . (rho * k_t)) v_t          y = W_o (L_g(x^g_t) * p_t)
    x^c_t = x_t + mu_c * (x_{t-1} - x_t) for c = r, k, v, w, a, g          r_t, v_t = W_r x^r_t, W_v x^v_t

L are maps of rank P: L_w has a tanh between its two matrices, L_g a sigmoid; L_w and L_a have a bias. Peng et al.,
"RWKV-7 'Goose' with Expressive Dynamic State Evolution", arXiv:2503.14456. There, values of later layers are mixed with
those of the first layer; a block here sees only its own input, so every layer is like the first. The recurrence is in
`searchspace.primitives.erasing`. Shapes: B batch, T time, D model width, G heads, K key dim = V value dim, P rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import erasing, recurrence, state_size
from searchspace.primitives.axes import Axis, AxisModule, constant, fan_in, normal, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.delta import unit
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 64e-5
SLOWEST = math.exp(-0.5)  # bound on -log w, and so on how much is forgotten in a step
MIXED = ("r", "k", "v", "w", "a", "g")


class RWKV7(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, self.K, self.d_model = spec["num_groups"], spec["head_dim"], context.d_model
        d_model, heads = Axis.of(D=context.d_model), Axis.of(G=self.G, K=self.K)
        rank = Axis.of(P=spec["rank"])
        for name in MIXED:
            self.declare(f"shift_{name}", (d_model,), constant(0.5))
        self.rwkv_r_proj = context.linear("q", heads, d_model)
        self.rwkv_k_proj = context.linear("k", heads, d_model)
        self.rwkv_v_proj = context.linear("v", heads, d_model)
        for name in ("w", "a", "g"):
            self.declare(f"rwkv_{name}_reduce", (rank, d_model), fan_in())
            self.declare(f"rwkv_{name}_expand", (heads, rank), fan_in())
        self.declare("rwkv_w_bias", (heads,), constant(-2.0))
        self.declare("rwkv_a_bias", (heads,), zeros)
        self.declare("rwkv_erase_scale", (heads,), constant(0.85))
        self.declare("rwkv_key_mix", (heads,), ones)
        self.declare("rwkv_bonus", (heads,), normal(0.1))
        self.declare("rwkv_norm_weight", (heads,), ones)
        self.declare("rwkv_norm_bias", (heads,), zeros)
        self.rwkv_o_proj = context.linear("o", d_model, heads)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        mixed, last = self.shifted(x, tokens, state["x"] if state else None)
        r, k, v, log_w, e, d = self.vectors(mixed, tokens)
        o, S = erasing.erasing_chunked(r, k, v, log_w, e, d, state["S"] if state else None)
        return self.output(o, r, k, v, mixed["g"]), {"x": last, "S": S} if state else None

    def shifted(self, x: Tensor, tokens: Tokens, before: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        """x [B, T, D] mixed with the token before it, for each use, and the last token [B, 1, D]."""
        x = tokens.without_padding(x)
        earlier = torch.cat((torch.zeros_like(x[:, :1]) if before is None else before, x), 1)
        change = earlier[:, :-1] - x
        mixed = {name: x + getattr(self, f"shift_{name}") * change for name in MIXED}
        return mixed, earlier[:, -1:].clone()

    def vectors(self, mixed: dict[str, Tensor], tokens: Tokens) -> tuple[Tensor, ...]:
        """r, k, v, log w, e and d = a e, each [B, T, G, K]; padding writes, forgets and erases nothing."""
        r, k, v = self.rwkv_r_proj(mixed["r"]), self.rwkv_k_proj(mixed["k"]), self.rwkv_v_proj(mixed["v"])
        reduce, expand = self.low_rank("a")
        a = torch.sigmoid(F.linear(F.linear(mixed["a"], reduce), expand, self.rwkv_a_bias))
        reduce, expand = self.low_rank("w")
        w = F.linear(torch.tanh(F.linear(mixed["w"], reduce)), expand, self.rwkv_w_bias)
        log_w = -SLOWEST * torch.sigmoid(w)
        e = unit(self.by_head(self.rwkv_erase_scale * k))
        k = self.by_head(tokens.without_padding(k * (1 + self.rwkv_key_mix * (a - 1))))
        d = tokens.without_padding(self.by_head(a) * e)
        return self.by_head(r), k, self.by_head(v), self.by_head(tokens.without_padding(log_w)), e, d

    def by_head(self, x: Tensor) -> Tensor:
        """[B, T, G K] -> [B, T, G, K]."""
        return x.unflatten(2, (self.G, self.K))

    def low_rank(self, name: str) -> tuple[Tensor, Tensor]:
        """The two matrices [P, D] and [G K, P] of L_w, L_a or L_g."""
        return getattr(self, f"rwkv_{name}_reduce"), getattr(self, f"rwkv_{name}_expand")

    def output(self, o: Tensor, r: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """o, r, k, v [B, T, G, K] and the gate's mixed input x [B, T, D] -> [B, T, D]."""
        p = (
            F.layer_norm(o, (self.K,), None, None, EPS).flatten(2) * self.rwkv_norm_weight
            + self.rwkv_norm_bias
        )
        bonus = (r * k * self.rwkv_bonus.view(self.G, self.K)).sum(-1, keepdim=True) * v
        reduce, expand = self.low_rank("g")
        gate = F.linear(torch.sigmoid(F.linear(x, reduce)), expand)
        y: Tensor = self.rwkv_o_proj(gate * (p + bonus.flatten(2)))
        return y

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G, self.K, self.K, device, dtype)
        return {"x": torch.zeros(batch_size, 1, self.d_model, device=device, dtype=dtype), "S": S}


def reference(module: RWKV7, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    mixed, _ = module.shifted(x, tokens, None)
    r, k, v, log_w, e, d = module.vectors(mixed, tokens)
    return module.output(erasing.erasing_reference(r, k, v, log_w, e, d), r, k, v, mixed["g"])


def flops(module: RWKV7, T: int, S: int) -> int:
    small = sum(t.numel() for name in "wag" for t in module.low_rank(name))
    return 2 * T * small + erasing.erasing_flops(T, module.G, module.K, module.K)


OPERATOR = Operator(
    name="rwkv7",
    slot="mixer",
    paper="RWKV-7, Peng et al. 2025, arXiv:2503.14456",
    build=RWKV7,
    reference=reference,
    choices={"num_groups": (1, 2, 4), "head_dim": (16, 32), "rank": (8, 16)},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o"),
    catalogue=(132,),
    complexity="T H K V",
    state="G K V + D",
)
