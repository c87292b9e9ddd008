"""Attention without values, output and separate query and key maps: one similarity matrix for each head.

    A = softmax(x_i^T M_h x_j / sqrt(D))         o_i = mean over heads of sum_j A_ij x_j

    collapsed   M_h free, in place of W_q W_k^T          symmetric   M_h = L L^T with L lower triangular

Iakovlev et al., "Reducing the Transformer Architecture to a Minimum", arXiv:2410.13732. A full M costs D^2 parameters
per head, so it only saves parameters with few heads. The tokens serve as keys and values, so a decoder caches only
them. The triangle is stored as a square whose upper half is unused, so that a narrower network's triangle is a prefix
of the wider one's. Rotary positions don't apply to M. Shapes: B batch, T queries, S keys, D model width, G heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.scores import Places, Visibility, extend_rows, fused_attention
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class MinAttention(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, self.D, self.is_symmetric = (
            spec["num_heads"],
            context.d_model,
            spec["similarity"] == "symmetric",
        )
        self.rule = Visibility(context.causal)
        name = "triangle" if self.is_symmetric else "similarity"
        self.declare(name, (Axis.of(G=self.G), Axis.of(D=self.D), Axis.of(D=self.D)), fan_in())

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, valid = self.queries(x), tokens.valid
        places = Places.following(0, x.shape[1], x.device)
        if state is not None:
            rows, places, state = extend_rows(state, {"x": x}, self.rule, valid)
            x, valid = rows["x"], rows.get("valid")
        keys = x.unsqueeze(1).expand(-1, self.G, -1, -1)
        visible = self.rule.mask(places.queries, places.keys, valid)
        return fused_attention(q, keys, keys, visible).mean(1), state

    def queries(self, x: Tensor) -> Tensor:
        """x M_h [B, G, T, D]."""
        if not self.is_symmetric:
            return x.unsqueeze(1) @ self.similarity
        L = self.triangle.tril()
        return x.unsqueeze(1) @ L @ L.mT

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return {"x": torch.empty(batch_size, 0, self.D, device=device, dtype=dtype), "num_tokens": 0}


def reference(module: MinAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """With M_h written out. x [B, T, D] -> [B, T, D]."""
    M = module.triangle.tril() @ module.triangle.tril().mT if module.is_symmetric else module.similarity
    T = x.shape[1]
    scores = torch.einsum("bid,gde,bje->bgij", x, M, x) / math.sqrt(module.D)
    visible = torch.ones(T, T, dtype=torch.bool)
    visible = visible.tril() if module.rule.causal else visible
    visible = visible if tokens.valid is None else visible & tokens.valid[:, None, None, :]
    weights = torch.exp(scores - scores.amax(-1, keepdim=True).detach()) * visible
    total = weights.sum(-1, keepdim=True)
    return ((weights / torch.where(total > 0, total, 1.0)) @ x.unsqueeze(1)).mean(1)


def flops(module: MinAttention, T: int, S: int) -> int:
    maps = 2 if module.is_symmetric else 1
    return module.G * (2 * maps * T * module.D**2 + 4 * T * S * module.D)


OPERATOR = Operator(
    name="min_attention",
    slot="mixer",
    paper="Reducing the Transformer Architecture to a Minimum, arXiv:2410.13732",
    build=MinAttention,
    reference=reference,
    choices={"num_heads": (1, 2), "similarity": ("collapsed", "symmetric")},
    flops=flops,
    state_bytes=state_size.every_token,
    catalogue=(11,),
    complexity="T G D (D + S)",
    state="S D",
)
