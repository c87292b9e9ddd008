"""Liger: half softmax attention to the last tokens, half a gated recurrence whose gates are derived from the keys.

    y = W_o (o_window + o_recurrent) / 2          S_t = diag(a_t) S_{t-1} + softmax(k_t) v_t^T
    o_recurrent,t = S_t^T softmax(q_t)            log a_t = log sigmoid(k_t) / tau

The softmax of q and k is over their channels and before rotary positions, which only the window uses. A pretrained
softmax layer thus needs no new weights. Both halves see the last `window` tokens. Lan et al., "Liger: Linearizing Large
Language Models to Gated Recurrent Structures", arXiv:2503.01496. Keys and gates have equal size here, so the pooling of
keys is the identity. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value
dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import banded, recurrence, state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.scores import empty_cache
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Liger(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window, self.tau = spec["window"], spec["tau"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.queries_keys_values(x)
        o, S = recurrence.recurrence_chunked(*self.gated(q, k, v, tokens), state["S"] if state else None)
        cache = state["cache"] if state else None
        turned = rotate(q, tokens).unflatten(2, (self.G, self.R))
        keys = banded.extended(rotate(k, tokens), self.window, cache["k"] if cache else None)
        values = banded.extended(v, self.window, cache["v"] if cache else None)
        num_kept = cache["k"].shape[1] if cache else 0
        near = banded.divided(
            *banded.banded_attention(turned, keys, values, self.window, tokens.valid, num_kept)
        )
        y = self.o_proj((o + near).flatten(2) / 2)
        return y, {"S": S, "cache": banded.after(cache, keys, values, self.window)} if cache else None

    def gated(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """softmax(q) [B, T, G, R, K], softmax(k) [B, T, G, K], v and log decay; padding neither writes nor forgets."""
        log_a = F.logsigmoid(k) / self.tau
        k = k.softmax(-1)
        k, log_a = tokens.without_padding(k), tokens.without_padding(log_a)
        return q.softmax(-1).unflatten(2, (self.G, self.R)), k, v, log_a

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G, self.K, self.K, device, dtype)
        return {"S": S, "cache": empty_cache(batch_size, self.G, self.K, device, dtype)}


def reference(module: Liger, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v = module.queries_keys_values(x)
    o, _ = recurrence.recurrence_reference(*module.gated(q, k, v, tokens))
    turned = rotate(q, tokens).unflatten(2, (module.G, module.R))
    near = banded.banded_reference(turned, rotate(k, tokens), v, module.window, tokens.valid)
    return module.o_proj((o + banded.divided(*near)).flatten(2) / 2)


def flops(module: Liger, T: int, S: int) -> int:
    G, H, K = module.G, module.H, module.K
    near = banded.banded_flops(T, module.window, H, K, K)
    return near + recurrence.chunked_flops(T, H, G, K, K, vector_decay=True)


OPERATOR = Operator(
    name="liger",
    slot="mixer",
    paper="Lan et al. 2025, arXiv:2503.01496",
    build=Liger,
    reference=reference,
    choices={**HEAD_CHOICES, "window": (16, 64), "tau": (8, 16)},
    flops=flops,
    state_bytes=state_size.tokens(lambda module, n: min(n, module.window - 1)),
    bidirectional=False,
    rope=True,
    catalogue=(70,),
    complexity="T H K V + T w H K",
    state="G K V + 2 (w - 1) G K",
)
