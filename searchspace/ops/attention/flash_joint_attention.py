"""Joint local and global attention with gates: positive weights inside groups of tokens, linear between them.

    h = silu(W x), four affine copies q1, k1, q2, k2;  V = [v, u] = silu(W_vu x)
    local    f(q1 k1^T / P) V  inside groups of P tokens        f = relu^2 or laplace
    global   q2 (k2^T V) / n  over all n tokens; causal: over the groups before the token's own, divided by P
    [a_v, a_u] = local + global          y = W_o ((a_u * v) * sigmoid(a_v * u))

Zhao and Ma, "MossFormer: Pushing the Performance Limit of Monaural Speech Separation using Gated Single-Head
Transformer with Convolution-Augmented Joint Self-Attentions", arXiv:2302.11824, on the mixed chunk attention of
Hua et al., arXiv:2202.10447. laplace, erfc((sqrt(1/2) - s) sqrt(2 pi)) / 2, is the smooth replacement of relu^2 of
Ma et al., arXiv:2209.10655, and the only weight in a causal network, where relu^2 can leave a token nothing to see.
With `shift` the first half of the channels is delayed by one token. The depthwise convolutions inside the projections
are left out. The scale 1 / P is split between q1 and k1, so that half precision doesn't overflow.
Shapes: B batch, T time, D model width, K head dim of the one head, F = expansion D width of v and of u, P group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule, normal, zeros
from searchspace.primitives.caches import latest
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import rotate
from searchspace.primitives.masks import extend, gather, line_blocks, visible
from searchspace.primitives.recurrence import state_dtype
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


def squared_relu(s: Tensor) -> Tensor:
    """Elementwise, s [...]: max(s, 0)^2."""
    return torch.relu(s).square()


def laplace(s: Tensor) -> Tensor:
    """Elementwise, s [...]: erfc((sqrt(1/2) - s) sqrt(2 pi)) / 2. Ma et al., arXiv:2209.10655."""
    return torch.erfc((math.sqrt(0.5) - s) * math.sqrt(2 * math.pi)) / 2


WEIGHTINGS = {"relu_squared": squared_relu, "laplace": laplace}


class FlashJointAttention(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.causal, self.D = context.causal, context.d_model
        self.K, self.group, self.shift = spec["head_dim"], spec["group"], spec["shift"]
        self.F, self.weighting = spec["expansion"] * self.D, WEIGHTINGS[spec["weighting"]]
        d_model, wide, head = Axis.of(D=self.D), Axis.of(F=self.F), Axis.of(K=self.K)
        self.shared_proj = context.linear("q", head, d_model)
        self.up_proj = context.linear("up", wide, d_model)
        self.joint_gate_proj = context.linear("gate", wide, d_model)
        self.down_proj = context.linear("down", d_model, wide)
        self.declare("copy_scale", (Axis.of(C=4), head), normal(0.02))
        self.declare("copy_shift", (Axis.of(C=4), head), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        B, T, _ = x.shape
        previous = state["previous"] if state else x.new_zeros(B, 1, self.D // 2)
        q1, k1, q2, k2, V, last = self.copies_and_values(x, tokens, previous)
        own = V
        before = state["k1"].shape[1] if state else 0
        seen = {"k1": k1, "k2": k2, "V": V}
        seen = extend({name: state[name] for name in seen}, **seen) if state else seen
        blocks = line_blocks(before, T, self.group, self.causal, x.device)
        scores = gather(q1, blocks.queries) @ gather(seen["k1"], blocks.keys).mT
        weights = self.weighting(scores) * visible(blocks, B, tokens.valid).flatten(0, 1)
        y = (weights @ gather(seen["V"], blocks.keys)).unflatten(0, (B, -1))  # [B, N, b, 2 F]
        if self.causal:
            S = self.sums(seen, state["S"] if state else None)
            earlier = S[:, : y.shape[1]]
            y = y + (gather(q2, blocks.queries).unflatten(0, (B, -1)) @ earlier.to(q2.dtype)) / self.group
            y = y.flatten(1, 2)[:, blocks.slots]
        else:
            count = tokens.real(x).sum(1, keepdim=True).clamp_min(1.0)
            y = y.flatten(1, 2)[:, blocks.slots] + q2 @ (k2.mT @ V) / count
        if state:
            full = seen["k1"].shape[1] // self.group
            state = {name: latest(t, t.shape[1] - full * self.group) for name, t in seen.items()}
            state |= {"S": S[:, full].clone(), "previous": last}
        return self.gated(y, own), state

    def copies_and_values(self, x: Tensor, tokens: Tokens, previous: Tensor) -> tuple[Tensor, ...]:
        """q1, k1, q2, k2 [B, T, K] (keys 0 at padding), V [B, T, 2 F], and the last token's delayed channels."""
        real = tokens.real(x)
        late, plain = (x * real).split((self.D // 2, self.D - self.D // 2), 2)
        late = torch.cat((previous, late), 1)
        if self.shift:
            x = torch.cat((late[:, :-1], plain), 2)
        h = F.silu(self.shared_proj(x)).unsqueeze(2) * self.copy_scale + self.copy_shift
        q1, k1, q2, k2 = rotate(h, tokens).unbind(2)
        V = F.silu(torch.cat((self.up_proj(x), self.joint_gate_proj(x)), 2))
        share = self.group**-0.5
        return q1 * share, k1 * share, q2, k2 * real, V, late[:, -1:].clone()

    def sums(self, seen: State, S: Tensor | None) -> Tensor:
        """Sums of k2^T V over the groups before each group and before the next one, [B, full + 1, K, 2 F]."""
        B, n = seen["k2"].shape[:2]
        full = n // self.group
        k2, V = (seen[name][:, : full * self.group].unflatten(1, (full, self.group)) for name in ("k2", "V"))
        dtype = state_dtype(V.dtype)
        own = k2.to(dtype).mT @ V.to(dtype)
        first = own.new_zeros(B, 1, self.K, 2 * self.F) if S is None else S.unsqueeze(1)
        return torch.cat((first, first + own.cumsum(1)), 1)

    def gated(self, a: Tensor, V: Tensor) -> Tensor:
        """a = local + global and V, both [B, T, 2 F] -> [B, T, D]."""
        a_v, a_u = a.chunk(2, -1)
        v, u = V.chunk(2, -1)
        y: Tensor = self.down_proj(a_u * v * torch.sigmoid(a_v * u))
        return y

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        def nothing(*shape: int) -> Tensor:
            return torch.zeros(batch_size, *shape, device=device, dtype=dtype)

        buffers = {"k1": nothing(0, self.K), "k2": nothing(0, self.K), "V": nothing(0, 2 * self.F)}
        S = nothing(self.K, 2 * self.F).to(state_dtype(dtype))
        return buffers | {"S": S, "previous": nothing(1, self.D // 2)}


def reference(module: FlashJointAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for every pair of tokens. x [B, T, D] -> [B, T, D]."""
    B, T, _ = x.shape
    q1, k1, q2, k2, V, _ = module.copies_and_values(x, tokens, x.new_zeros(B, 1, module.D // 2))
    group = torch.arange(T) // module.group
    real = torch.ones(B, 1, T) if tokens.valid is None else tokens.valid.unsqueeze(1).to(x.dtype)
    same, earlier = group.unsqueeze(1) == group, group.unsqueeze(1) > group
    if module.causal:
        same, far = same.tril(), earlier / module.group
    else:
        far = 1 / real.sum(2, keepdim=True).clamp_min(1.0)
    local = module.weighting(torch.einsum("bik,bjk->bij", q1, k1)) * same
    weights = (local + torch.einsum("bik,bjk->bij", q2, k2) * far) * real
    return module.gated(torch.einsum("bij,bjf->bif", weights.to(x.dtype), V), V)


def flops(module: FlashJointAttention, T: int, S: int) -> int:
    K, P, wide = module.K, module.group, 2 * module.F
    before = (S - T) % P
    count, b = (1, 1) if T == 1 else (-(-(before + T) // P), P)
    local = 2 * count * b * P * (K + wide)
    if not module.causal:
        return local + 4 * T * K * wide
    return local + 2 * count * b * K * wide + 2 * ((before + T) // P) * P * K * wide


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if context.causal and spec["weighting"] == "relu_squared":
        return f"{spec.op}: with weighting=relu_squared a causal token may see nothing, not even itself; use laplace"
    return None


OPERATOR = Operator(
    name="flash_joint_attention",
    slot="mixer",
    paper="MossFormer, Zhao and Ma 2023, arXiv:2302.11824; FLASH, Hua et al. 2022, arXiv:2202.10447",
    build=FlashJointAttention,
    ranges={"expansion": Range(1, 16)},
    reference=reference,
    choices={
        "head_dim": (16, 32),
        "expansion": (1, 2),
        "group": (16, 64),
        "shift": (False, True),
        "weighting": ("relu_squared", "laplace"),
    },
    flops=flops,
    state_bytes=state_size.tokens(lambda module, n: n % module.group),
    why_invalid=why_invalid,
    rope=True,
    quantizable=("q", "up", "gate", "down"),
    catalogue=(43,),
    complexity="T (P + K) F",
    state="2 K F + at most (P - 1) (2 K + 2 F)",
)
