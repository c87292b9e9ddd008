"""Sliced group attention: softmax attention within groups of tokens, with other groups in each run of a stage.

    run 0     groups of w consecutive tokens      o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j over j of i's group
    run r     groups of w consecutive tokens in a fixed random order P_r

Shen et al., "Sliced Recursive Transformer", arXiv:2111.05297: n passes through shared weights cost as much as one pass
of full attention if each has n groups. w is `window`, and `later_window` in the runs after the first; 0 means `window`.
P_r is drawn once per number of tokens and always the same; the published code draws it in every call, including
inference. The last group is smaller where w does not divide the number of tokens. The other difference between runs is
recursion_mlp. Shapes: B batch, T time, D model width, G key/value groups, R heads per group, H = G R, K head dim, w
window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.constants import kept
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.masks import attend_blocks, line_blocks, line_blocks_flops, sparse_reference
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec


class SlicedGroupAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window, self.repeats = spec["window"], context.repeats
        self.later_window = spec.get("later_window", 0) or self.window

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        T, run = x.shape[1], tokens.repeat
        q, k, v = self.rotated(x, tokens)
        valid, order = tokens.valid, order_of_run(T, run, x.device)
        if run:
            q, k, v = q[:, order], k[:, order], v[:, order]
            valid = None if valid is None else valid[:, order]
        y = attend_blocks(q, k, v, line_blocks(0, T, self.size(run), False, x.device), valid)
        return self.merge_heads(y[:, order.argsort()] if run else y), None

    def size(self, run: int) -> int:
        """Tokens per group."""
        return self.later_window if run else self.window


@kept(64)
def order_of_run(T: int, run: int, device: torch.device) -> Tensor:
    """P_r: the token [T] at each place."""
    if not run:
        return torch.arange(T, device=device)
    generator = torch.Generator().manual_seed(run)
    return torch.randperm(T, generator=generator, device="cpu").to(device)


def reference(module: SlicedGroupAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    T = x.shape[1]
    size = module.size(tokens.repeat)
    group = {
        token: place // size for place, token in enumerate(order_of_run(T, tokens.repeat, x.device).tolist())
    }

    def sees(b: int, h: int, i: int) -> list[int]:
        return [j for j in range(T) if group[j] == group[i]]

    return module.merge_heads(sparse_reference(module, x, tokens, sees))


def flops(module: SlicedGroupAttention, T: int, S: int) -> int:
    """Return the FLOPs of a run, averaged over the runs."""
    runs = [line_blocks_flops(0, T, module.size(run), module.H, module.K) for run in range(module.repeats)]
    return sum(runs) // len(runs)


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec.get("later_window") and context.repeats == 1:
        return (
            f"sliced_group_attention: later_window = {spec['later_window']} is that of the runs after the first, and "
            f"the stage has repeats = 1"
        )
    return None


OPERATOR = Operator(
    name="sliced_group_attention",
    slot="mixer",
    paper="Sliced Recursive Transformer, Shen et al. 2021, arXiv:2111.05297",
    build=SlicedGroupAttention,
    ranges={"later_window": COUNT},
    reference=reference,
    choices={**HEAD_CHOICES, "window": (8, 16, 32)},
    options={"later_window": (0, 8, 16)},
    flops=flops,
    why_invalid=why_invalid,
    causal=False,
    needs_2d=True,
    rope=True,
    catalogue=(23,),
    complexity="T w H K",
)
