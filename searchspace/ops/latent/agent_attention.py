"""Agent attention: a few pooled queries (agents) gather from all tokens, and every token reads from the agents.

    A = mean over bins of the image of q        V_A = softmax(A K^T / sqrt(K)) V        O = softmax(Q A^T / sqrt(K)) V_A

With `conv`, a depthwise 3 x 3 convolution of the values is added, which restores detail that m agents can't carry. Han
et al., "Agent Attention: On the Integration of Softmax and Linear Attention", arXiv:2312.08874, without the biases of
the two softmaxes, as in its training-free use. Pooling is adaptive: side x side agents for any image, with overlapping
bins where the side doesn't divide it, over the rectangle of real tokens. Shapes: B batch, T tokens of the grid, D model
width, G groups, H = G R heads, K head dim, m = side^2 agents.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, normal
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.latent import adaptive_bins, local_values, local_values_flops
from searchspace.primitives.masks import attend, attend_flops, extents
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

KERNEL = 3


class AgentAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.side, self.conv = spec["side"], spec["conv"]
        if self.conv:
            axes = (Axis.of(G=self.G, K=self.K), Axis.of(Y=KERNEL), Axis.of(X=KERNEL))
            self.declare("value_conv", axes, normal(1 / KERNEL))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v = self.queries_keys_values(x)
        B, T = x.shape[:2]
        pool = self.pool(tokens, B, x.device).to(x.dtype)
        count = pool.sum(-1, keepdim=True)
        agents = ((pool / count.clamp_min(1.0)) @ q.flatten(2)).unflatten(2, (self.H, self.K))
        real = k.new_ones(B, T, dtype=torch.bool) if tokens.valid is None else tokens.valid
        gathered = attend(agents, k, v, real.unsqueeze(1).expand(-1, self.side**2, -1))
        y = attend(q, agents, gathered, (count > 0).mT.expand(-1, T, -1))
        if self.conv:
            y = y + self.per_head(local_values(v, self.value_conv, tokens))
        return self.merge_heads(y), None

    def pool(self, tokens: Tokens, B: int, device: torch.device) -> Tensor:
        """[B, m, T], True where a real token is in an agent's bin."""
        ends = extents(tokens.valid, tokens.sides, device)
        rows, columns = (
            adaptive_bins(length, self.side, *e) for length, e in zip(tokens.sides, ends, strict=True)
        )
        bins = (rows[:, :, None, :, None] & columns[:, None, :, None, :]).flatten(3).flatten(1, 2)
        return bins.expand(B, -1, -1) if tokens.valid is None else bins & tokens.valid.unsqueeze(1)


def reference(module: AgentAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for each pair of tokens: the product of the two softmaxes; the convolution token by token.

    x [B, T, D] -> [B, T, D].
    """
    q, k, v = module.queries_keys_values(x)
    k, v = module.per_head(k), module.per_head(v)
    columns = tokens.sides[1]
    outputs = []
    for b in range(len(x)):
        real = [t for t in range(x.shape[1]) if tokens.is_real(b, t)]
        lines = [[t // columns for t in real], [t % columns for t in real]]
        bins = [_bins(min(line), max(line) + 1, module.side) for line in lines]
        members = [[t for t in real if t // columns in r and t % columns in c] for r, c in product(*bins)]
        agents = torch.stack([q[b, some].mean(0) for some in members if some])
        gather = (torch.einsum("ahk,jhk->haj", agents, k[b, real]) / math.sqrt(module.K)).softmax(-1)
        read = (torch.einsum("ihk,ahk->hia", q[b], agents) / math.sqrt(module.K)).softmax(-1)
        y = torch.einsum("hij,jhk->ihk", read @ gather, v[b, real])
        for i, t in product(range(x.shape[1]), real) if module.conv else ():
            down, right = t // columns - i // columns + 1, t % columns - i % columns + 1
            if 0 <= down < KERNEL and 0 <= right < KERNEL:
                weight = module.per_head(module.value_conv[:, down, right].view(1, 1, module.G, module.K))[
                    0, 0
                ]
                y = y.index_add(0, torch.tensor([i]), (weight * v[b, t]).unsqueeze(0))
        outputs.append(y)
    return module.merge_heads(torch.stack(outputs))


def _bins(first: int, end: int, count: int) -> list[range]:
    m = end - first
    return [range(first + i * m // count, first + math.ceil((i + 1) * m / count)) for i in range(count)]


def flops(module: AgentAttention, T: int, S: int) -> int:
    m, H, K = module.side**2, module.H, module.K
    conv = local_values_flops(T, module.G, K, KERNEL) if module.conv else 0
    return 2 * m * T * H * K + 2 * attend_flops(1, m, T, H, K) + conv


OPERATOR = Operator(
    name="agent_attention",
    slot="mixer",
    paper="Agent Attention, Han et al. 2023, arXiv:2312.08874",
    build=AgentAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "side": (3, 4, 7), "conv": (False, True)},
    flops=flops,
    causal=False,
    needs_2d=True,
    catalogue=(75,),
    complexity="T m H K",
)
