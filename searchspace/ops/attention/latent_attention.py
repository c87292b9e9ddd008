"""Multi-head latent attention: keys and values of all heads are derived from one short vector per token, the cache.

    c_j = RMSNorm(W_c x_j)    k_jh = [U_h c_j, rot(W_r x_j)]    v_jh = V_h c_j
    u_i = RMSNorm(W_u x_i)    q_ih = [Q_h u_i, rot(P_h u_i)]    o_ih = sum_j softmax_j(q_ih . k_jh / sqrt(K + E)) v_jh

DeepSeek-AI, "DeepSeek-V2", arXiv:2405.04434, and "DeepSeek-V3", arXiv:2412.19437: W_r gives one rotary key for all
heads. A single token, as in decoding, is computed with U and V absorbed into the query and the output, by
q . U_h c = (U_h^T q) . c, so that no keys are expanded; for more tokens, keys and values are expanded. Values are as
wide as the non-rotary part of a key. U and V are always dense, because they have to be absorbed.
Options: queries = "full" uses u_i = x_i (DeepSeek-V2-Lite); rotary as in searchspace.primitives.heads.rotate.
Shapes: c [B, S, P], rotary keys [B, S, E], q and v [B, T, H, K], u [B, T, Q].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule, fan_in, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import ROTARY_OPTIONS, rotate
from searchspace.primitives.row_norms import rms_norm
from searchspace.primitives.row_statistics import masked_softmax
from searchspace.primitives.scores import Places, Visibility, extend_rows, fused_attention
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class LatentAttention(AxisModule):
    takes_max_len = True
    quantizable = ("q", "o")

    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.H, self.K, self.E = spec["num_heads"], spec["head_dim"], spec["rope_dim"]
        self.P, self.Q = spec["kv_rank"], spec["query_rank"]
        self.rule = Visibility(context.causal)
        self.rotary, self.compresses = spec.get("rotary", "global"), spec.get("queries") != "full"
        d_model, latent = Axis.of(D=context.d_model), Axis.of(P=self.P)
        heads = Axis.of(G=self.H, R=1, K=self.K)  # each head is its own group, as in attention without groups
        turned = Axis.of(G=self.H, E=self.E)
        self.latent_proj = context.linear("latent", latent, d_model)
        self.rotary_key_proj = context.linear("rotary_key", Axis.of(E=self.E), d_model)
        self.declare("latent_norm_weight", (latent,), ones)
        self.declare("latent_keys", (Axis.of(G=self.H, K=self.K), latent), fan_in())
        self.declare("latent_values", (Axis.of(G=self.H, K=self.K), latent), fan_in())
        if self.compresses:
            short = Axis.of(Q=self.Q)
            self.query_latent_proj = context.linear("query_latent", short, d_model)
            self.declare("query_norm_weight", (short,), ones)
            self.query_up_proj = context.linear("q", heads, short)
            self.rotary_query_up_proj = context.linear("q", turned, short)
        else:
            self.q_proj = context.linear("q", heads, d_model)
            self.rotary_query_proj = context.linear("q", turned, d_model)
        self.o_proj = context.linear("o", d_model, heads)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, turned = self.queries(x, tokens)
        rows, valid = self.rows(x, tokens), tokens.valid
        places = Places.following(0, x.shape[1], x.device)
        if state is not None:
            rows, places, state = extend_rows(state, rows, self.rule, valid)
            valid = rows.get("valid")
        visible = self.rule.mask(places.queries, places.keys, valid)
        attend = self.absorbed if x.shape[1] == 1 else self.expanded
        return self.o_proj(attend(q, turned, rows["latent"], rows["rotary"], visible).flatten(2)), state

    def queries(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The query parts [B, T, H, K] and, with rotary positions, [B, T, H, E]."""
        if self.compresses:
            u = rms_norm(self.query_latent_proj(x), self.query_norm_weight, EPS)
            q, turned = self.query_up_proj(u), self.rotary_query_up_proj(u)
        else:
            q, turned = self.q_proj(x), self.rotary_query_proj(x)
        turned = rotate(turned.unflatten(2, (self.H, self.E)), tokens, self.rotary)
        return q.unflatten(2, (self.H, self.K)), turned

    def rows(self, x: Tensor, tokens: Tokens) -> dict[str, Tensor]:
        """Return the cached rows of each token: latent [B, T, P] and rotary [B, T, E]."""
        turned = rotate(self.rotary_key_proj(x).unsqueeze(2), tokens, self.rotary).squeeze(2)
        return {"latent": rms_norm(self.latent_proj(x), self.latent_norm_weight, EPS), "rotary": turned}

    def expanded(self, q: Tensor, turned: Tensor, latent: Tensor, rotary: Tensor, visible: Tensor) -> Tensor:
        """[B, T, H, K] from keys and values [B, S, H, ...]."""
        k, v = (
            (latent @ weight.mT).unflatten(2, (self.H, self.K))
            for weight in (self.latent_keys, self.latent_values)
        )
        k = torch.cat((k, rotary.unsqueeze(2).expand(-1, -1, self.H, -1)), -1)
        q = torch.cat((q, turned), -1)
        return fused_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), visible).transpose(
            1, 2
        )

    def absorbed(self, q: Tensor, turned: Tensor, latent: Tensor, rotary: Tensor, visible: Tensor) -> Tensor:
        """[B, 1, H, K] without keys or values per head: one key [P + E] serves all heads."""
        keys, values = (w.unflatten(0, (self.H, self.K)) for w in (self.latent_keys, self.latent_values))
        q = torch.cat((torch.einsum("bthk,hkp->bhp", q, keys), turned.squeeze(1)), -1)  # [B, H, P + E]
        scores = (q @ torch.cat((latent, rotary), -1).mT / math.sqrt(self.K + self.E)).unsqueeze(2)
        weights = masked_softmax(scores.to(torch.promote_types(q.dtype, torch.float32)), visible).squeeze(2)
        return torch.einsum("bhp,hkp->bhk", weights.to(latent.dtype) @ latent, values).unsqueeze(1)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        latent, rotary = (torch.empty(batch_size, 0, n, device=device, dtype=dtype) for n in (self.P, self.E))
        return {"latent": latent, "rotary": rotary, "num_tokens": 0}


def reference(module: LatentAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for each pair of tokens, head by head. x [B, T, D] -> [B, T, D]."""

    def normed(c: Tensor, weight: Tensor) -> Tensor:
        return c / (c.square().mean(-1, keepdim=True) + EPS).sqrt() * weight

    c, u = normed(module.latent_proj(x), module.latent_norm_weight), x
    turned_key = rotate(module.rotary_key_proj(x).unsqueeze(2), tokens, module.rotary)[:, :, 0]
    if module.compresses:
        u = normed(module.query_latent_proj(x), module.query_norm_weight)
        q, p = module.query_up_proj(u), module.rotary_query_up_proj(u)
    else:
        q, p = module.q_proj(u), module.rotary_query_proj(u)
    p = rotate(p.unflatten(2, (module.H, module.E)), tokens, module.rotary)
    T = x.shape[1]
    seen = torch.ones(T, T, dtype=torch.bool)
    seen = (seen.tril() if module.rule.causal else seen).expand(len(x), T, T)
    seen = seen if tokens.valid is None else seen & tokens.valid[:, None]
    outputs = []
    for h in range(module.H):
        own = slice(h * module.K, (h + 1) * module.K)
        k, v = (c @ w[own].T for w in (module.latent_keys, module.latent_values))
        scores = (q[..., own].unsqueeze(2) * k.unsqueeze(1)).sum(-1)
        scores = scores + (p[:, :, h].unsqueeze(2) * turned_key.unsqueeze(1)).sum(-1)
        weights = (scores / math.sqrt(module.K + module.E)).exp() * seen
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
        outputs.append((weights.unsqueeze(-1) * v.unsqueeze(1)).sum(2))
    return module.o_proj(torch.cat(outputs, -1))


def flops(module: LatentAttention, T: int, S: int) -> int:
    H, K, E, P = module.H, module.K, module.E, module.P
    if T == 1:
        return 4 * H * K * P + 2 * S * H * (P + E) + 2 * S * H * P
    return 4 * S * P * H * K + 2 * T * S * H * (K + E) + 2 * T * S * H * K


OPERATOR = Operator(
    name="latent_attention",
    slot="mixer",
    paper="DeepSeek-V2 2024, arXiv:2405.04434; DeepSeek-V3 2024, arXiv:2412.19437",
    build=LatentAttention,
    reference=reference,
    choices={
        "num_heads": (2, 4),
        "head_dim": (16, 32),
        "kv_rank": (16, 32),
        "query_rank": (16, 32),
        "rope_dim": (8, 16),
    },
    options={"queries": ("compressed", "full"), "rotary": ROTARY_OPTIONS["rotary"]},
    ranges={"rope_dim": Range(2, 2**20, "channels turn in pairs", step=2)},
    flops=flops,
    state_bytes=state_size.every_token,
    rope=True,
    rotary_width="rope_dim",
    catalogue=(134,),
    complexity="T S H (2 K + E) + S P H K",
    state="S (P + E)",
)
