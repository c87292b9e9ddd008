"""Mixed attention with span-based dynamic convolution: half of the heads are global, half see a few tokens around.

    attention     o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j
    convolution   c_i = sum_o softmax_o(W_f (q_i * s_i))_o u_{i + o}         o = -(k // 2) .. k // 2
                  s = W_s (depthwise convolution of x with k taps)            u = W_u x
    y = W_o [o, c]

The kernel of a token depends on the span around it, not only on the token. Jiang et al., "ConvBERT: Improving BERT with
Span-based Dynamic Convolution", arXiv:2008.02496. There are G R heads of each kind; W_o is stored as two maps. Tokens
outside the sequence and padding are 0. Taps are stored from the token outwards, so that a smaller kernel is the middle
of a larger one. Bidirectional only. Shapes: x [B, T, D], q, s and u [B, T, H, K], kernels [B, T, H, k].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, fan_in
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import offsets, tap_of
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.scores import Visibility, fused_attention
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec


class SpanConv(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.kernel_size = spec["kernel_size"]
        self.order = [tap_of(o) for o in offsets(self.kernel_size)]
        d_model, taps = Axis.of(D=context.d_model), self.kernel_size
        heads = Axis.of(G=self.G, R=self.R, K=self.K)
        self.declare("span_taps", (d_model, Axis.of(taps=taps)), fan_in())
        self.span_proj = context.linear("span", heads, d_model)
        self.span_kernel_proj = context.linear("kernel", Axis.of(G=self.G, R=self.R, taps=taps), heads)
        self.conv_v_proj = context.linear("v", heads, d_model)
        self.conv_o_proj = context.linear("o", d_model, heads)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v = self.queries_keys_values(x)
        local = self.convolved(q, x, tokens)
        q, k = rotate(q, tokens), rotate(k, tokens)
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        places = torch.arange(x.shape[1], device=x.device)
        visible = Visibility(causal=False).mask(places, places, tokens.valid)
        y = fused_attention(q, k, v, visible).transpose(1, 2)
        return self.merge_heads(y) + self.conv_o_proj(local.flatten(2)), None

    def convolved(self, q: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        """The output of the convolution heads [B, T, H, K], for q [B, T, H, K] and x [B, T, D]."""
        half, clean = self.kernel_size // 2, tokens.without_padding(x).transpose(1, 2)
        taps = self.span_taps[:, self.order].unsqueeze(1)
        span = self.span_proj(F.conv1d(clean, taps, padding=half, groups=clean.shape[1]).transpose(1, 2))
        logits = self.span_kernel_proj(q.flatten(2) * span).unflatten(2, (self.H, self.kernel_size))
        kernels = logits[..., self.order].softmax(-1)
        values = F.pad(tokens.without_padding(self.conv_v_proj(x)), (0, 0, half, half))
        windows = values.unfold(1, self.kernel_size, 1).unflatten(2, (self.H, self.K))
        return (windows * kernels.unsqueeze(3)).sum(-1)


def reference(module: SpanConv, x: Tensor, tokens: Tokens) -> Tensor:
    """By weights of every pair of tokens for both kinds of heads. x [B, T, D] -> [B, T, D]."""
    T, real = x.shape[1], torch.ones(x.shape[:2], dtype=torch.bool) if tokens.valid is None else tokens.valid
    q, k, v = module.queries_keys_values(x)
    scores = (rotate(q, tokens).unsqueeze(2) * module.per_head(rotate(k, tokens)).unsqueeze(1)).sum(-1)
    seen = real[:, None, :, None] & real[:, :, None, None]
    weights = torch.where(seen, (scores / math.sqrt(module.K)).exp(), 0.0)  # [B, T, S, H]
    weights = weights / weights.sum(2, keepdim=True).clamp_min(1e-300)
    y = (weights.unsqueeze(-1) * module.per_head(v).unsqueeze(1)).sum(2)

    near = {
        o: seen[..., 0] & torch.ones(T, T, dtype=torch.bool).tril(o).triu(o)
        for o in offsets(module.kernel_size)
    }
    rows = [n.to(x.dtype) @ x * module.span_taps[:, tap_of(o)] for o, n in near.items()]
    mixed = module.span_kernel_proj(q.flatten(2) * module.span_proj(torch.stack(rows).sum(0)))
    kernel = mixed.unflatten(2, (module.H, -1)).exp()
    kernel = kernel / kernel.sum(-1, keepdim=True)
    values = module.conv_v_proj(x).flatten(2)
    taken = [(n.to(x.dtype) @ values).view_as(q) * kernel[..., tap_of(o), None] for o, n in near.items()]
    return module.merge_heads(y) + module.conv_o_proj(torch.stack(taken).sum(0).flatten(2))


def flops(module: SpanConv, T: int, S: int) -> int:
    return 4 * T * S * module.H * module.K + 2 * T * module.span_taps.numel()


OPERATOR = Operator(
    name="span_conv",
    slot="mixer",
    paper="ConvBERT, Jiang et al. 2020, arXiv:2008.02496",
    build=SpanConv,
    ranges={"kernel_size": ODD},
    reference=reference,
    choices={**HEAD_CHOICES, "kernel_size": (5, 9)},
    flops=flops,
    causal=False,
    rope=True,
    catalogue=(5,),
    quantizable=("q", "k", "v", "o", "span", "kernel"),
    complexity="T S H K + T k (D + H K)",
)
