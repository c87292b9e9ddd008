"""Token dropping: a small scorer decides which tokens the rest of the network needs, and only those continue.

    p_j = mean over heads of sigmoid((W_q m) . (W_k x_j) / sqrt(K))          m = mean of the tokens, or the first one
    kept: the ceil(keep_ratio T) tokens with the largest p, in order; always the first one where the head reads it

Pan et al., "IA-RED^2: Interpretability-Aware Redundancy Reduction for Vision Transformers", arXiv:2106.12620. The
published scorer uses the class token as query (`asks` = "first", where the head reads that token), keeps p_j > 1/2 and
is trained by REINFORCE, group after group. Here the number kept is fixed: a batch of images stays rectangular, and a
search knows a network's cost in advance. No reward for dropped tokens is needed then, and p gets its gradient straight
through: the kept tokens are multiplied by 1 + p - stop_gradient(p), which is 1.

Dropped tokens never return. In a wider stage the new channels are 0. Scores are computed in at least float32, so that
rounding does not affect which tokens are kept. Shapes: x [B, T, D] -> [B, ceil(keep_ratio T), D'].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.registry import SHARE, Operator
from searchspace.spec.arch import OpSpec


class IARed(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.H, self.K, self.keep_ratio = spec["num_heads"], spec["head_dim"], spec["keep_ratio"]
        self.keeps_first, self.asks_first = context.keeps_first, spec.get("asks", "mean") == "first"
        self.new_channels = context.d_next - context.d_model
        shape = (Axis.of(H=self.H, K=self.K), Axis.of(D=context.d_model))
        self.declare("scorer_query", shape, fan_in())
        self.declare("scorer_key", shape, fan_in())

    def forward(self, x: Tensor, tokens: Tokens, saved: None = None) -> tuple[Tensor, Tokens, None]:
        """x [B, T, D] -> [B, ceil(keep_ratio T), D'], the facts of the kept tokens, no state."""
        p = self.scores(x, tokens)
        kept = p if tokens.valid is None else p.masked_fill(~tokens.valid, -1.0)
        if self.keeps_first:
            kept = torch.cat((torch.full_like(kept[:, :1], 2.0), kept[:, 1:]), 1)
        kept = kept.topk(num_kept(self.keep_ratio, x.shape[1])).indices.sort().values  # [B, k]
        p = p.gather(1, kept)
        through = (1 + (p - p.detach())).unsqueeze(-1).to(x.dtype)
        y = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[-1])) * through
        return F.pad(y, (0, self.new_channels)), facts_of(tokens, kept), None

    def scores(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> how much each token is needed [B, T], between 0 and 1."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide, query, key = (t.to(dtype) for t in (x, self.scorer_query, self.scorer_key))
        asking = wide[:, 0] if self.asks_first else tokens.mean(wide)
        asked = F.linear(asking, query).unflatten(1, (self.H, self.K)).transpose(0, 1)  # [H, B, K]
        directions = asked @ key.unflatten(0, (self.H, self.K))  # [H, B, D]
        scores = wide @ directions.permute(1, 2, 0) / math.sqrt(self.K)  # [B, T, H]
        return scores.sigmoid().mean(-1)


def facts_of(tokens: Tokens, kept: Tensor) -> Tokens:
    """Facts about the tokens at the places `kept` [B, k]."""

    def take(fact: Tensor | None, width: int = 0) -> Tensor | None:
        """Select from [T] or [B, T], with a last axis of `width` channels if not 0."""
        if fact is None:
            return None
        whole = fact.expand(len(kept), *fact.shape[-2 if width else -1 :])
        return whole.gather(1, kept.unsqueeze(-1).expand(-1, -1, width) if width else kept)

    rotary = None
    if tokens.rotary is not None:
        cos, sin = (take(t, t.shape[-1]) for t in tokens.rotary)
        assert cos is not None
        assert sin is not None
        rotary = cos, sin
    return tokens.replace(
        valid=take(tokens.valid),
        positions=take(tokens.positions),
        modality=take(tokens.modality),
        rotary=rotary,
        grid=None,
    )


def num_kept(keep_ratio: float, T: int) -> int:
    return math.ceil(keep_ratio * T - 1e-9)  # 0.7 * 10 is slightly more than 7 in floating point


def reference(module: IARed, x: Tensor, tokens: Tokens) -> Tensor:
    """Token by token and head by head, in the precision of x. x [B, T, D] -> [B, ceil(keep_ratio T), D']."""
    asking = x[:, 0] if module.asks_first else x.mean(1)
    q = (module.scorer_query @ asking.unsqueeze(-1)).squeeze(-1).unflatten(1, (module.H, module.K))
    p = []
    for t in range(x.shape[1]):
        k = (module.scorer_key @ x[:, t].unsqueeze(-1)).squeeze(-1).unflatten(1, (module.H, module.K))
        p.append(torch.sigmoid((q * k).sum(-1) / math.sqrt(module.K)).mean(-1))
    outputs = []
    for b in range(len(x)):
        order = sorted(
            range(x.shape[1]), key=lambda t: (t > 0 or not module.keeps_first, -float(p[t][b].detach()))
        )
        rows = sorted(order[: num_kept(module.keep_ratio, x.shape[1])])
        outputs.append(torch.stack([x[b, t] * (1 + (p[t][b] - p[t][b].detach())) for t in rows]))
    y = torch.stack(outputs)
    return torch.cat((y, y.new_zeros(*y.shape[:2], module.new_channels)), -1)


def layout(spec: OpSpec, before: Layout) -> Layout:
    return Layout(num_kept(spec["keep_ratio"], before.max_len))


def flops(module: IARed, T: int, S: int) -> int:
    return 2 * (2 * module.scorer_query.numel() + T * module.H * module.scorer_query.shape[1])


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if context.d_next < context.d_model:
        return f"ia_red hands tokens on as they are: width {context.d_next} behind {context.d_model} is too narrow"
    if spec.get("asks") == "first" and not context.keeps_first:
        return "ia_red: asks = 'first' is for a head that reads the first token (pooling = 'first')"
    return None


OPERATOR = Operator(
    name="ia_red",
    slot="transition",
    paper="IA-RED^2, Pan et al. 2021, arXiv:2106.12620",
    build=IARed,
    ranges={"keep_ratio": SHARE},
    reference=reference,
    choices={"keep_ratio": (0.5, 0.7, 0.9, 1.0), "num_heads": (2,), "head_dim": (16,)},
    options={"asks": ("mean", "first")},
    layout=layout,
    flops=flops,
    why_invalid=why_invalid,
    causal=False,
    catalogue=(35,),
    complexity="T H D",
)
