"""Routing attention: a query sees the latest keys of its own cluster, and a window of near tokens.

    c(x) = argmax_m mu_m . x        members(i) = the n latest j <= i - w with c(k_j) = c(q_i)
    o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j        over members(i) and the last w tokens

Roy et al., "Efficient Content-Based Sparse Attention with Routing Transformers", arXiv:2003.05997. In the published
form each centroid takes its nearest tokens of the whole sequence, so later tokens displace earlier ones and the mask
leaks the future. Here a token chooses its centroid and members are ranked by age: a different model, strictly causal.
The unit centroids of each group are set by k-means on the directions of the layer's own keys, and compared with queries
and keys before rotary positions. A decoder keeps all keys and values and each key's cluster. Shapes: B batch, T time, D
model width, G groups, R heads per group, H = G R, K head dim, M clusters, n members.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, normal
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads, rotate
from searchspace.primitives.masks import attend_flops, extend, sparse_reference
from searchspace.primitives.merging import attend_blocks_with_sum, merge
from searchspace.primitives.selection import (
    attend_selected,
    latest_members,
    near_and_sinks,
    nearest,
    spherical_kmeans,
)
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

CLUSTER = torch.int32


class RoutingAttention(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.M, self.members, self.window = spec["num_clusters"], spec["members"], spec["window"]
        axes = (Axis.of(G=self.G), Axis.of(M=self.M), Axis.of(K=self.K))
        self.declare("centroids", axes, normal(1.0), role="calibrated")

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.queries_keys_values(x)
        wanted, cluster = self.clusters(q, k, tokens.valid)
        q, k = rotate(q, tokens), rotate(k, tokens)
        if state:
            state = extend(state, k=k, v=v, cluster=cluster.to(CLUSTER))
            k, v, cluster = state["k"], state["v"], state["cluster"].long()
        T, end = x.shape[1], k.shape[1]
        near = attend_blocks_with_sum(
            q, k, v, near_and_sinks(end - T, T, self.window, 0, x.device), tokens.valid
        )
        until = torch.arange(end - T, end, device=x.device) - self.window + 1
        routed = attend_selected(q, k, v, *latest_members(cluster, wanted, until, self.members, self.M))
        return self.merge_heads(merge(near, routed)[0]), state

    def clusters(self, q: Tensor, k: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Clusters of queries [B, T, G, R] and of keys [B, T, G], M for a key at padding."""
        wanted = nearest(q.unflatten(2, (self.G, self.R)), self.centroids)
        cluster = nearest(k.unsqueeze(3), self.centroids).squeeze(3)
        return wanted, cluster if valid is None else cluster.masked_fill(~valid.unsqueeze(2), self.M)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().init_state(batch_size, device, dtype)
        return state | {"cluster": state["k"][..., 0].to(CLUSTER)}


def reference(module: RoutingAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    q, k, _ = (
        t.detach().to(torch.promote_types(x.dtype, torch.float32)) for t in module.queries_keys_values(x)
    )
    mu = module.centroids.to(q)
    wanted = torch.einsum("gmk,bigrk->bgrim", mu, q.unflatten(2, (module.G, -1))).argmax(-1).flatten(1, 2)
    cluster = module.per_head(torch.einsum("gmk,bjgk->bjgm", mu, k).argmax(-1)).mT

    def sees(b: int, h: int, i: int) -> list[int]:
        near = [j for j in range(i + 1) if j > i - module.window]
        far = [j for j in range(i - module.window + 1) if cluster[b, h, j] == wanted[b, h, i]]
        return [j for j in far if tokens.is_real(b, j)][-module.members :] + near

    return module.merge_heads(sparse_reference(module, x, tokens, sees))


@torch.no_grad()
def calibrate(module: RoutingAttention, batches: list[tuple[Tensor, Tokens]]) -> None:
    """Run k-means on the directions of each group's real keys; batches of x [B, T, D]."""
    found = []
    for x, tokens in batches:
        k = module.queries_keys_values(x)[1]
        found.append(k[tokens.valid] if tokens.valid is not None else k.flatten(0, 1))
    keys = torch.cat(found).to(torch.promote_types(found[0].dtype, torch.float32))  # [n, G, K]
    module.centroids.copy_(torch.stack([spherical_kmeans(group, module.M) for group in keys.unbind(1)]))


def flops(module: RoutingAttention, T: int, S: int) -> int:
    routing = 2 * T * (module.H + module.G) * module.M * module.K
    return routing + attend_flops(T, 1, module.members + module.window, module.H, module.K)


OPERATOR = Operator(
    name="routing_attention",
    slot="mixer",
    paper="Routing Transformer, Roy et al. 2020, arXiv:2003.05997",
    build=RoutingAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "num_clusters": (4, 8), "members": (8, 32), "window": (8, 32)},
    flops=flops,
    state_bytes=state_size.every_token,
    calibrate=calibrate,
    bidirectional=False,
    rope=True,
    catalogue=(55,),
    complexity="T (M + n + w) H K",
    state="2 S G K + S G cluster numbers",
)
