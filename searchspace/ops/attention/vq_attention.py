"""Vector-quantised attention: softmax over keys that are replaced by the nearest of M codes, in linear time.

    A_js = [s nearest to k_j]      V_is = sum_j A_js v_j      N_is = sum_j A_js      over the keys j that i sees
    o_i = sum_s e_is V_is / sum_s e_is N_is                   e_is = exp(q_i . c_s / sqrt(K))

This equals softmax attention on the quantised keys, so with a code for every distinct key it is softmax attention. The
sums are the whole decoder state. Liu et al., "LongVQ: Long Sequence Modeling with Vector Quantization on Structured
Memory", arXiv:2404.11163; the linear form is Lingle's, "Transformer-VQ", arXiv:2309.16354. The codes are set by k-means
on the layer's own keys. Gradients reach the keys by a straight-through assignment: one-hot in the forward, the softmax
of the closeness in the backward. A code that no visible key has only affects the gradient, where its weight is at most
that of the best code in use. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim =
V value dim, M codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, normal
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

KMEANS_STEPS = 8


class VQAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.M = spec["num_codes"]
        axes = (Axis.of(G=self.G), Axis.of(M=self.M), Axis.of(K=self.K))
        self.declare("codebook", axes, normal(1.0), role="calibrated")

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.queries_keys_values(x)
        scores, assigned = self.scores(q), self.assign(k, tokens.valid)
        counted = F.pad(v, (0, 1), value=1.0)  # the last value column counts the keys
        used = assigned.detach().cumsum(1) if self.causal else assigned.detach().sum(1, keepdim=True)
        if state:
            used = used + state["S"][:, None, :, :, -1]
        best = scores.detach().masked_fill(used.unsqueeze(3) == 0, -torch.inf).amax(-1, keepdim=True)
        weights = (scores - best.nan_to_num(neginf=0.0)).clamp(max=0.0).exp()
        if not self.causal:
            o = recurrence.sum_over_all(weights, assigned, counted)
        else:
            o, S = recurrence.recurrence_chunked(
                weights, assigned, counted, None, state["S"] if state else None
            )
            state = {"S": S} if state else None
        return self.merge_heads(normalized(o).flatten(2, 3)), state

    def scores(self, q: Tensor) -> Tensor:
        """q [B, T, H, K] -> products with the codes of the group [B, T, G, R, M]."""
        return q.unflatten(2, (self.G, self.R)) @ self.codebook.mT / math.sqrt(self.K)

    def assign(self, k: Tensor, valid: Tensor | None) -> Tensor:
        """k [B, T, G, K] -> [B, T, G, M], 1 at the nearest code, all 0 at padding."""
        half_norms = self.codebook.square().sum(-1) / 2
        closeness = (k.unsqueeze(3) @ self.codebook.mT).squeeze(3) - half_norms
        soft = (closeness / math.sqrt(self.K)).softmax(-1)
        nearest = F.one_hot(closeness.argmax(-1), self.M).to(k.dtype) + (soft - soft.detach())
        return nearest if valid is None else nearest * valid[:, :, None, None]

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (batch_size, self.G, self.M, self.K + 1)
        return {"S": torch.zeros(shape, device=device, dtype=recurrence.state_dtype(dtype))}


def normalized(o: Tensor) -> Tensor:
    """[..., V + 1] -> [..., V], divided by the last column; 0 where a query sees no key."""
    total = o[..., -1:]
    return o[..., :-1] / torch.where(total > 0, total, 1.0)


def reference(module: VQAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """The quadratic form: a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.queries_keys_values(x)
    B, T, _, _ = k.shape
    assigned = module.assign(k, tokens.valid)  # [B, T, G, M]
    visible = torch.ones(T, T, dtype=torch.bool, device=x.device)
    visible = visible.tril() if module.causal else visible
    used = torch.stack([(assigned * visible[i, :, None, None]).sum(1) > 0 for i in range(T)], 1).unsqueeze(3)
    e = module.scores(q).exp()  # [B, T, G, R, M]
    best = torch.where(used, e, 0.0).amax(-1, keepdim=True).detach()
    e = torch.where(e > best, best, e)
    pairs = torch.einsum("bigrm,bjgm->bgrij", e, assigned) * visible
    total = pairs.sum(-1, keepdim=True)
    pairs = pairs / torch.where(total > 0, total, 1.0)
    return module.merge_heads(torch.einsum("bgrij,bjgv->bigrv", pairs, v).flatten(2, 3))


@torch.no_grad()
def calibrate(module: VQAttention, batches: list[tuple[Tensor, Tokens]]) -> None:
    """Run k-means on the keys of each group, from keys far apart; deterministic. Batches of x [B, T, D]."""
    found = []
    for x, tokens in batches:
        k = module.queries_keys_values(x)[1]
        found.append(k[tokens.valid] if tokens.valid is not None else k.flatten(0, 1))
    keys = torch.cat(found).transpose(0, 1)  # [G, N, K]
    codes = spread(keys, module.M)
    for _ in range(KMEANS_STEPS):
        nearest = F.one_hot(torch.cdist(keys, codes).argmin(-1), module.M).to(keys.dtype)  # [G, N, M]
        count = nearest.sum(1).unsqueeze(-1)
        means = nearest.transpose(1, 2) @ keys / count.clamp_min(1.0)
        codes = torch.where(count > 0, means, codes)
    module.codebook.copy_(codes)


def spread(keys: Tensor, num_codes: int) -> Tensor:
    """keys [G, N, K] -> [G, M, K]: the first key, then repeatedly the key farthest from those chosen."""
    codes = [keys[:, :1]]
    distance = torch.full(keys.shape[:2], torch.inf, dtype=keys.dtype, device=keys.device)
    for _ in range(num_codes - 1):
        distance = torch.minimum(distance, (keys - codes[-1]).square().sum(-1))
        farthest = distance.argmax(1)[:, None, None].expand(-1, 1, keys.shape[-1])
        codes.append(keys.gather(1, farthest))
    return torch.cat(codes, 1)


def flops(module: VQAttention, T: int, S: int) -> int:
    G, H, K, M = module.G, module.H, module.K, module.M
    count = recurrence.chunked_flops if module.causal else recurrence.sum_over_all_flops
    return 2 * T * (G + H) * K * M + count(T, H, G, M, K + 1)


OPERATOR = Operator(
    name="vq_attention",
    slot="mixer",
    catalogue=(60,),
    paper="LongVQ, Liu et al. 2024, arXiv:2404.11163; Transformer-VQ, arXiv:2309.16354",
    build=VQAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "num_codes": (16, 32)},
    flops=flops,
    state_bytes=state_size.fixed,
    calibrate=calibrate,
    complexity="T H M (K + V)",
    state="G M (V + 1)",
)
