"""FIT: a stage on a few latents per group of tokens, with reads from the tokens and writes back to them.

    enter      z_gm = u_m + W_o softmax(W_q n(u_m) (W_k n(x_j))^T / sqrt(K)) W_v n(x_j)    j over the tokens of group g
    way back   x_i + W_o' softmax(W_q' n(x_i) (W_k' n(z_gm))^T / sqrt(K)) W_v' n(z_gm)     m over the latents of group g

Chen and Li, "FIT: Far-reaching Interleaved Transformers", arXiv:2305.12689. u_m are M learned latents with which every
group starts, n is a norm without weights. Groups are n consecutive tokens, the last one shorter where n does not divide
T; groups exchange information only in the stage. A latent has the position of its group. Rounds are consecutive stages.
The published way back of a causal network, shifted by one group, is left out: its stage would wait for a whole group
and then take M latents at once; block_embedding is the causal stage on groups.
Shapes: x [B, T, D], z [B, ceil(T / n) M, D'], heads H of K channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, normal
from searchspace.primitives.context import BuildContext, Layout, State, Tokens
from searchspace.primitives.masks import attend, attend_flops
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

Entered = tuple[Tensor, Tokens, State]


class FITRead(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.group_len, self.M = spec["group_len"], spec["num_latents"]
        self.H, self.K = spec["num_heads"], spec["head_dim"]
        before, after = Axis.of(D=context.d_model), Axis.of(D=context.d_next)
        heads = Axis.of(H=self.H, K=self.K)
        self.declare("latents", (Axis.of(M=self.M), after), normal(1.0))
        self.read_q_proj = context.linear("q", heads, after)
        self.read_k_proj = context.linear("k", heads, before)
        self.read_v_proj = context.linear("v", heads, before)
        self.read_o_proj = context.linear("o", after, heads)

    def forward(self, x: Tensor, tokens: Tokens, saved: None = None) -> Entered:
        """x [B, T, D] -> latents [B, ceil(T / n) M, D'], their facts, and x for the way back."""
        B, n = x.shape[0], self.group_len
        normed = unit_variance(x)
        k, v = (self.split(in_groups(proj(normed), n)) for proj in (self.read_k_proj, self.read_v_proj))
        q = self.split(self.read_q_proj(unit_variance(self.latents).expand(B, -1, -1)))  # [B, M, H, K]
        real = real_in_groups(x, tokens.valid, n)
        q, seen = q.repeat_interleave(k.shape[0] // B, 0), real.unsqueeze(1).expand(-1, self.M, -1)
        y = attend(q, k, v, seen)
        z = (self.latents + self.read_o_proj(y.flatten(2))).view(B, -1, self.latents.shape[1])
        return z, self.of_latents(tokens, real, B), {"x": x, "tokens": tokens}

    def split(self, x: Tensor) -> Tensor:
        """[..., H * K] -> [..., H, K]."""
        return x.unflatten(-1, (self.H, self.K))

    def of_latents(self, tokens: Tokens, real: Tensor, B: int) -> Tokens:
        """Facts about the latents, each at its group's first token; `real` [B groups, n] is False at padding."""
        firsts = (torch.arange(real.shape[0] // B, device=real.device) * self.group_len).repeat_interleave(
            self.M
        )
        positions, rotary, valid = tokens.positions, tokens.rotary, None
        if tokens.valid is not None:
            valid = real.any(-1).view(B, -1).repeat_interleave(self.M, 1)
        return Tokens(
            valid=valid,
            positions=None if positions is None else positions[..., firsts] // self.group_len,
            rotary=None if rotary is None else (rotary[0][..., firsts, :], rotary[1][..., firsts, :]),
            progress=tokens.progress,
        )


class FITWrite(AxisModule):
    """The way back. Without `saved`, as when run alone, it writes to tokens of 0."""

    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.group_len, self.M = spec["group_len"], spec["num_latents"]
        self.H, self.K = spec["num_heads"], spec["head_dim"]
        latent, token = Axis.of(D=context.d_model), Axis.of(D=context.d_next)
        heads = Axis.of(H=self.H, K=self.K)
        self.d_next = context.d_next
        self.write_q_proj = context.linear("q", heads, token)
        self.write_k_proj = context.linear("k", heads, latent)
        self.write_v_proj = context.linear("v", heads, latent)
        self.write_o_proj = context.linear("o", token, heads)

    def forward(self, z: Tensor, tokens: Tokens, saved: State | None = None) -> tuple[Tensor, Tokens, None]:
        """z [B, groups M, D'] -> x plus what it reads of z [B, T, D], the facts of x, no state."""
        n = self.group_len
        if saved is None:
            saved = {"x": z.new_zeros(len(z), z.shape[1] // self.M * n, self.d_next), "tokens": tokens}
        x = saved["x"]
        B, T, _ = x.shape
        z = unit_variance(z).reshape(-1, self.M, z.shape[-1])
        q, k, v = (
            rows.unflatten(-1, (self.H, self.K))
            for rows in (
                in_groups(self.write_q_proj(unit_variance(x)), n),
                self.write_k_proj(z),
                self.write_v_proj(z),
            )
        )
        seen = torch.ones(1, 1, 1, dtype=torch.bool, device=x.device).expand(len(z), n, self.M)
        y = attend(q, k, v, seen).flatten(2).reshape(B, -1, self.H * self.K)[:, :T]
        return x + self.write_o_proj(y), saved["tokens"], None


def unit_variance(x: Tensor) -> Tensor:
    """x [..., D] -> LayerNorm without weights [..., D]."""
    return F.layer_norm(x, x.shape[-1:])


def in_groups(x: Tensor, n: int) -> Tensor:
    """x [B, T, C] -> [B * groups, n, C], with the last group padded with 0."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % n)).reshape(-1, n, x.shape[-1])


def real_in_groups(x: Tensor, valid: Tensor | None, n: int) -> Tensor:
    """[B * groups, n], False at padding and after the last token."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
    return F.pad(real, (0, -x.shape[1] % n)).reshape(-1, n)


def reference(module: FITRead, x: Tensor, tokens: Tokens) -> Tensor:
    """Latent by latent, with explicit weights over its group. x [B, T, D] -> [B, ceil(T / n) M, D']."""

    def plain(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    k, v = (module.split(proj(plain(x))) for proj in (module.read_k_proj, module.read_v_proj))
    outputs = []
    for first in range(0, x.shape[1], module.group_len):
        group = slice(first, first + module.group_len)
        for latent in module.latents:
            q = module.split(module.read_q_proj(plain(latent)))
            scores = (q * k[:, group]).sum(-1) / math.sqrt(module.K)  # [B, n, H]
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            outputs.append(
                latent + module.read_o_proj((weights.unsqueeze(-1) * v[:, group]).sum(1).flatten(1))
            )
    return torch.stack(outputs, 1)


def layout(spec: OpSpec, before: Layout) -> Layout:
    return Layout(-(-before.max_len // spec["group_len"]) * spec["num_latents"])


def read_flops(module: FITRead, T: int, S: int) -> int:
    groups, M, n = -(-T // module.group_len), module.M, module.group_len
    q, k, v, o = (
        p.weight.numel()
        for p in (module.read_q_proj, module.read_k_proj, module.read_v_proj, module.read_o_proj)
    )
    return 2 * (M * q + T * (k + v) + groups * M * o) + attend_flops(groups, M, n, module.H, module.K)


def write_flops(module: FITWrite, T: int, S: int) -> int:
    """Return the FLOPs for T latents; an incomplete last group of tokens counts in full."""
    groups, M, n = T // module.M, module.M, module.group_len
    q, k, v, o = (
        p.weight.numel()
        for p in (module.write_q_proj, module.write_k_proj, module.write_v_proj, module.write_o_proj)
    )
    return 2 * (groups * n * (q + o) + T * (k + v)) + attend_flops(groups, n, M, module.H, module.K)


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["num_latents"] >= spec["group_len"]:
        return (
            f"fit: {spec['num_latents']} latents are no fewer than the {spec['group_len']} tokens of a group"
        )
    return None


CHOICES = {"group_len": (4, 8, 16), "num_latents": (1, 2, 4), "num_heads": (2,), "head_dim": (16,)}
PAPER = "FIT, Chen and Li 2023, arXiv:2305.12689"

OPERATOR = Operator(
    name="fit",
    slot="transition",
    paper=PAPER,
    build=FITRead,
    reference=reference,
    choices=CHOICES,
    layout=layout,
    flops=read_flops,
    counts_projections=True,
    why_invalid=why_invalid,
    causal=False,
    catalogue=(19,),
    complexity="T M H K",
)
WAY_BACK = Operator(
    name="fit",
    slot="way_back",
    paper=PAPER,
    build=FITWrite,
    choices=CHOICES,
    flops=write_flops,
    counts_projections=True,
    why_invalid=why_invalid,
    causal=False,
    catalogue=(19,),
    complexity="T M H K",
)
