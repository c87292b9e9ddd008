"""Native sparse attention: gated sum of attention to compressed blocks, to selected blocks and to a window.

    c_r = sum_p a_p k_(rb + p)    e_r = sum_p a'_p v_(rb + p)         a block of b tokens as one key and one value
    w_ir = softmax_r(q_i . c_r / sqrt(K))                             over the blocks that end at i or before
    m_ir = sum of w_ir over the heads of a group                      what a block matters to query i
    o_i  = g1 sum_r w_ir e_r + g2 A(blocks of i) + g3 A(the last w tokens)        g = sigmoid(W_g x_i) for each head

A is softmax attention. The blocks of i are its own and the n - 1 earlier ones with the largest m, shared by all heads
of a group, without a gradient; ties go to the earlier block. Each branch has its own keys and values.
Yuan et al., "Native Sparse Attention", arXiv:2502.11089. The paper compresses blocks, which may overlap, by a small
network; here each position in a block has a weight, and compressed blocks coincide with the selected ones. The first
block is not always selected. A block's sums exclude padding. A decoder stores the selection branch's keys and values of
all tokens, those of the window, the compressed blocks, and the tokens of the unfinished block.
Shapes: q [B, T, H, K], keys and values [B, S, G, K], c and e [B, N, G, K], a and a' [G, b].
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, constant
from searchspace.primitives.caches import append
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.local_attention import num_pairs, windowed_attention
from searchspace.primitives.row_statistics import masked_softmax
from searchspace.primitives.scores import Places, Visibility, extend_rows
from searchspace.primitives.selection import attend_selected
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

BRANCHES = ("block", "chosen", "near")
Rows = dict[str, Tensor]


class NativeSparseAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context, "qo")
        self.b, self.count = spec["block"], spec["num_blocks"]
        self.all, self.near = Visibility(context.causal), Visibility(context.causal, spec["window"])
        d_model, group = Axis.of(D=context.d_model), Axis.of(G=self.G, K=self.K)
        for branch in BRANCHES:
            self.add_module(f"{branch}_key_proj", context.linear("k", group, d_model))
            self.add_module(f"{branch}_value_proj", context.linear("v", group, d_model))
        places = Axis.of(G=self.G), Axis.of(B=self.b)
        self.declare("block_key_weight", places, constant(1 / self.b))
        self.declare("block_value_weight", places, constant(1 / self.b))
        gates = Axis.of(C=len(BRANCHES), G=self.G, R=self.R)
        self.branch_gate_proj = context.linear("branch_gate", gates, d_model)

    def keys_values(self, x: Tensor, tokens: Tokens) -> Rows:
        """Keys and values [B, T, G, K] of each branch for x [B, T, D], by their names in a state."""
        found: Rows = {}
        for branch, prefix in zip(BRANCHES, ("open_", "", "near_"), strict=True):
            k, v = (
                self.get_submodule(f"{branch}_{what}_proj")(x).unflatten(2, (self.G, self.K))
                for what in ("key", "value")
            )
            found |= {f"{prefix}k": rotate(k, tokens), f"{prefix}v": v}
        return found

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        T, valid = x.shape[1], tokens.valid
        q = rotate(self.q_proj(x).unflatten(2, (self.H, self.K)), tokens)
        new = self.keys_values(x, tokens)
        chosen, near = (
            {name: new[name] for name in ("k", "v")},
            {name: new[name] for name in ("near_k", "near_v")},
        )
        places = near_places = Places.following(0, T, x.device)
        after: State = {}
        if state is not None:
            chosen, places, after["chosen"] = extend_rows(state["chosen"], chosen, self.all, valid)
            near, near_places, after["near"] = extend_rows(state["near"], near, self.near, valid)
        elif valid is not None:
            chosen["valid"] = near["valid"] = valid
        blocks = after["blocks"] = self.compressed(new, tokens, None if state is None else state["blocks"])
        asking = places.queries
        coarse, matter = self.coarse(q, blocks, asking)
        fine = self.fine(q, chosen, matter, blocks["block_real"], asking)
        k, v = (self.per_head(near[name]) for name in ("near_k", "near_v"))
        local = windowed_attention(q, k, v, self.near, near_places, near.get("valid"))
        gates = torch.sigmoid(self.branch_gate_proj(x)).unflatten(2, (len(BRANCHES), self.H, 1))
        y = sum(gate * part for gate, part in zip(gates.unbind(2), (coarse, fine, local), strict=True))
        return self.merge_heads(y), None if state is None else after

    def compressed(self, new: Rows, tokens: Tokens, state: Rows | None) -> Rows:
        """All full blocks, keys and values [B, N, G, K], and the tokens of the unfinished block."""
        real = torch.ones(new["k"].shape[:2], dtype=torch.bool, device=new["k"].device)
        rows = {
            "open_k": tokens.without_padding(new["open_k"]),
            "open_v": tokens.without_padding(new["open_v"]),
            "open_real": real if tokens.valid is None else tokens.valid,
        }
        if state is not None:
            rows = {name: torch.cat((state[name], row), 1) for name, row in rows.items()}
        full = rows["open_k"].shape[1] // self.b * self.b
        cut = {name: row[:, :full].unflatten(1, (-1, self.b)) for name, row in rows.items()}
        weights = {"k": self.block_key_weight, "v": self.block_value_weight}
        blocks = {
            f"block_{name}": (cut[f"open_{name}"] * weight.T.unsqueeze(-1)).sum(2)
            for name, weight in weights.items()
        }
        blocks["block_real"] = cut["open_real"].any(2)
        if state is not None:
            blocks = {name: append(state[name], block) for name, block in blocks.items()}
        return blocks | {name: row[:, full:].clone() for name, row in rows.items()}

    def coarse(self, q: Tensor, blocks: Rows, asking: Tensor) -> tuple[Tensor, Tensor]:
        """(output of attention to full blocks [B, T, H, K], importance m of each block [B, T, G, N])."""
        ends = (torch.arange(blocks["block_k"].shape[1], device=q.device) + 1) * self.b - 1
        visible = (ends <= asking.unsqueeze(1)) & blocks["block_real"][:, None, None, :]  # [B, 1, T, N]
        k, v = (self.per_head(blocks[name]).transpose(1, 2) for name in ("block_k", "block_v"))
        scores = (q.transpose(1, 2) @ k.mT).to(torch.promote_types(q.dtype, torch.float32))
        weights = masked_softmax(scores / math.sqrt(self.K), visible)
        matter = weights.detach().unflatten(1, (self.G, self.R)).sum(2).transpose(1, 2)
        return (weights.to(v.dtype) @ v).transpose(1, 2), matter

    def fine(self, q: Tensor, rows: Rows, matter: Tensor, real: Tensor, asking: Tensor) -> Tensor:
        """The output [B, T, H, K] of attention to the tokens of the selected blocks. q [B, T, H, K], asking [T]."""
        T, S, own = q.shape[1], rows["k"].shape[1], asking // self.b
        full = matter.shape[-1]
        earlier = torch.arange(full, device=q.device) < own.unsqueeze(1)
        may = earlier.view(1, T, 1, full) & real[:, None, None]
        order = matter.masked_fill(~may, -1.0).sort(dim=-1, descending=True, stable=True)
        chosen = order.indices[..., : self.count - 1]
        exists = order.values[..., : self.count - 1] >= 0
        itself = own.view(1, T, 1, 1).expand(*matter.shape[:3], 1)
        blocks = torch.cat((itself, chosen), -1)
        exists = torch.cat((torch.ones_like(itself, dtype=torch.bool), exists), -1)
        places = blocks.unsqueeze(-1) * self.b + torch.arange(self.b, device=q.device)
        seen = exists.unsqueeze(-1) & (places <= asking.view(1, T, 1, 1, 1))
        places, seen = places.clamp(max=S - 1).flatten(3).unsqueeze(3), seen.flatten(3).unsqueeze(3)
        if "valid" in rows:
            batch = torch.arange(len(q), device=q.device).view(-1, 1, 1, 1, 1)
            seen = seen & rows["valid"][batch, places]
        return attend_selected(q, rows["k"], rows["v"], places, seen)[0]

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        rows = torch.empty(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
        real = torch.empty(batch_size, 0, dtype=torch.bool, device=device)
        return {
            "chosen": {"k": rows, "v": rows, "num_tokens": 0},
            "near": {"near_k": rows, "near_v": rows, "num_tokens": 0},
            "blocks": {
                f"{part}_{name}": row
                for part in ("block", "open")
                for name, row in (("k", rows), ("v", rows), ("real", real))
            },
        }


def reference(module: NativeSparseAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """The forward pass from explicit weights of all pairs, with blocks selected for each query. [B, T, D] -> same."""
    (B, T, _), b, H, K = x.shape, module.b, module.H, module.K
    q, rows = rotate(module.q_proj(x).unflatten(2, (H, K)), tokens), module.keys_values(x, tokens)
    real = torch.tensor([[tokens.is_real(n, t) for t in range(T)] for n in range(B)])
    count = T // b
    c, e = (x.new_zeros(B, max(count, 1), module.G, K) for _ in range(2))
    for r, p in product(range(count), range(b)):
        t = r * b + p
        inside = real[:, t, None, None]
        c[:, r] = c[:, r] + inside * rows["open_k"][:, t] * module.block_key_weight[:, p, None]
        e[:, r] = e[:, r] + inside * rows["open_v"][:, t] * module.block_value_weight[:, p, None]
    may = torch.zeros(B, H, T, max(count, 1), dtype=torch.bool)
    for n, i, r in product(range(B), range(T), range(count)):
        may[n, :, i, r] = bool(real[n, r * b : (r + 1) * b].any()) and (r + 1) * b - 1 <= i
    coarse, weights = _by_pairs(module, q, c, e, may)
    matter = weights.detach().unflatten(1, (module.G, module.R)).sum(2)
    fine, near = torch.zeros(B, H, T, T, dtype=torch.bool), torch.zeros(B, H, T, T, dtype=torch.bool)
    for n, g, i in product(range(B), range(module.G), range(T)):
        own = [r for r in range(min(count, i // b)) if bool(real[n, r * b : (r + 1) * b].any())]
        best = sorted(own, key=lambda r: (-float(matter[n, g, i, r]), r))[: module.count - 1]
        heads = slice(g * module.R, (g + 1) * module.R)
        for j in range(i + 1):
            fine[n, heads, i, j] = bool(real[n, j]) and j // b in (*best, i // b)
            near[n, heads, i, j] = bool(real[n, j]) and i - j < module.near.window
    parts = [coarse, _by_pairs(module, q, rows["k"], rows["v"], fine)[0]]
    parts.append(_by_pairs(module, q, rows["near_k"], rows["near_v"], near)[0])
    gates = torch.sigmoid(module.branch_gate_proj(x)).view(B, T, len(BRANCHES), H)
    return module.merge_heads(torch.stack([gates[:, :, n, :, None] * y for n, y in enumerate(parts)]).sum(0))


def _by_pairs(
    module: NativeSparseAttention, q: Tensor, k: Tensor, v: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """(output [B, T, H, K], weights [B, H, T, S]) of attention to the pairs `seen` [B, H, T, S]."""
    k, v = module.per_head(k), module.per_head(v)
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(module.K)
    weights = scores.exp() * seen
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
    return torch.einsum("bhts,bshk->bthk", weights, v), weights


def flops(module: NativeSparseAttention, T: int, S: int) -> int:
    full = S // module.b
    chosen = (1 + min(module.count - 1, full)) * module.b
    near = num_pairs(module.near, T, S)
    return 4 * module.H * module.K * (T * (full + chosen) + near)


def num_kept(module: NativeSparseAttention, n: int) -> dict[str, int]:
    kept = {"": n, "near_": module.near.num_kept(n), "block_": n // module.b, "open_": n % module.b}
    return {f"{part}{name}": count for part, count in kept.items() for name in ("k", "v", "real")}


OPERATOR = Operator(
    name="native_sparse_attention",
    slot="mixer",
    paper="Native Sparse Attention, Yuan et al. 2025, arXiv:2502.11089",
    build=NativeSparseAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "block": (8, 16), "num_blocks": (2, 3), "window": (8, 32)},
    flops=flops,
    state_bytes=state_size.tokens(num_kept),
    bidirectional=False,
    rope=True,
    catalogue=(137,),
    complexity="T (S / b + n b + w) H K",
    state="2 (S + S / b + w + b) G K",
)
