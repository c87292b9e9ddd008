"""Block-local attention: softmax attention inside non-overlapping blocks of tokens.

    o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j        over j with floor(j / w) = floor(i / w), causal also j <= i

DiagAttention (softmax form, T2) of Qin et al., "The Devil in Linear Transformer", arXiv:2210.10340, meant for the lower
half of a network whose upper half is linear attention: the first token of a block sees nothing before it. A decoder
keeps the keys and values of the incomplete block. Shapes: B batch, T time, D model width, G groups, R heads per group,
H = G R, K head dim, w window.
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.caches import latest
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.masks import (
    attend_blocks,
    extend,
    line_blocks,
    line_blocks_flops,
    sparse_reference,
)
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class BlockLocalAttention(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window = spec["window"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        before = 0
        if state is not None:
            before, state = state["k"].shape[1], extend(state, k=k, v=v)
            k, v = state["k"], state["v"]
            full = k.shape[1] // self.window * self.window
            state = {name: latest(kept, kept.shape[1] - full) for name, kept in state.items()}
        blocks = line_blocks(before, x.shape[1], self.window, self.causal, x.device)
        return self.merge_heads(attend_blocks(q, k, v, blocks, tokens.valid)), state


def reference(module: BlockLocalAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""

    def sees(b: int, h: int, i: int) -> list[int]:
        end = i + 1 if module.causal else x.shape[1]
        return [j for j in range(end) if i // module.window == j // module.window]

    return module.merge_heads(sparse_reference(module, x, tokens, sees))


def flops(module: BlockLocalAttention, T: int, S: int) -> int:
    return line_blocks_flops((S - T) % module.window, T, module.window, module.H, module.K)


OPERATOR = Operator(
    name="block_local_attention",
    slot="mixer",
    paper="The Devil in Linear Transformer (DiagAttention), Qin et al. 2022, arXiv:2210.10340",
    build=BlockLocalAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "window": (16, 32, 64)},
    flops=flops,
    state_bytes=state_size.tokens(lambda module, n: n % module.window),
    rope=True,
    catalogue=(21,),
    complexity="T w H K",
    state="at most 2 (w - 1) G K",
)
