"""One sequence over several processes, exact: each rank holds consecutive tokens, in the order of the ranks.

    recurrence     LASP-2, arXiv:2502.07563: one all-gather of states. Rank r runs its tokens from an empty state to
                   (M_r, P_r), what they write and what they leave of a state before them; then
                   S_r = sum_{p < r} P_{r-1} ... P_{p+1} M_p, and every token adds what it reads from S_r. Without the
                   delta rule P_r is the decay exp(sum_t log a_t); with it, a K x K matrix.
    sum_over_all   the same where nothing is hidden: every token reads the sum of all M_p
    ring_attention RSA, arXiv:2105.13120: keys go round once for all scores of a row, then values; a row of scores is
                   held whole, so memory grows with T S. A baseline: merging partial softmaxes needs no such row.

What is communicated by `recurrence` does not grow with the sequence. Gradients go the same ways back, so every rank has
to call backward. A column of ones in v makes the normaliser of linear attention part of the state. Shapes as in
searchspace.primitives.recurrence, T the tokens of one rank. The processes are those of a torch.distributed group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from searchspace.primitives.recurrence import recurrence_chunked, state_dtype

Group = dist.ProcessGroup | None


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, beta: Tensor | None = None, group: Group = None
) -> Tensor:
    """What `recurrence_chunked` gives for this rank's tokens of the whole sequence; shares may differ in length."""
    if beta is not None:
        return _delta(q, k, v, log_a, beta, group)
    o, M = recurrence_chunked(q, k, v, log_a)
    total = M.new_zeros(1, 1, 1, 1) if log_a is None else log_a.to(M.dtype).cumsum(1)  # [B, T, G, 1 or K]
    since = total[:, -1].exp().expand(*M.shape[:2], -1).unsqueeze(-1)  # [B, G, 1 or K, 1]
    states = [torch.zeros_like(M)]
    for written, left in zip(_gather(M, group), _gather(since, group), strict=True):
        states.append(left * states[-1] + written)
    S = _own(states, group)
    read = (q * total.exp().unsqueeze(3)).to(S.dtype)  # [B, T, G, R, K]
    return o + torch.einsum("btgrk,bgkv->btgrv", read, S).to(o.dtype)


def _delta(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, beta: Tensor, group: Group) -> Tensor:
    """Columns of 0 written onto the identity leave P, beside the columns of v that leave M."""
    B, _, G, K = k.shape
    V, dtype = v.shape[-1], state_dtype(q.dtype)
    identity = torch.eye(K, dtype=dtype, device=q.device).expand(B, G, K, K)
    start = torch.cat((identity.new_zeros(B, G, K, V), identity), -1)
    wide = torch.cat((v, v.new_zeros(*v.shape[:3], K)), -1)
    both = recurrence_chunked(q[:, :, :, :1], k, wide, log_a, start, beta=beta)[1]
    states = [both.new_zeros(B, G, K, V)]
    for after in _gather(both, group):
        states.append(after[..., V:] @ states[-1] + after[..., :V])
    return recurrence_chunked(q, k, v, log_a, _own(states, group), beta=beta)[0]


def sum_over_all(q: Tensor, k: Tensor, v: Tensor, group: Group = None) -> Tensor:
    """o_i = (sum over all j of k_j v_j^T)^T q_i for this rank's tokens i and every rank's j."""
    M = k.transpose(1, 2).mT @ v.transpose(1, 2)  # [B, G, K, V]
    return torch.einsum("btgrk,bgkv->btgrv", q, _gather(M, group).sum(0))


def ring_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, group: Group = None) -> Tensor:
    """Softmax attention of this rank's queries over all ranks' keys; every rank holds the same number of tokens.

    q [B, T, H, K], k and v [B, T, G, K] -> [B, T, H, K].
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    T, R = q.shape[1], q.shape[2] // k.shape[2]
    q = q.transpose(1, 2).unflatten(1, (-1, R)) / math.sqrt(q.shape[-1])  # [B, G, R, T, K]
    origins, scores = [(rank - step) % world for step in range(world)], []
    for step in range(world):
        k = _Shift.apply(k, group) if step else k
        scores.append(q @ k.transpose(1, 2).unsqueeze(2).mT)
    wide = torch.cat(scores, -1).to(state_dtype(q.dtype))
    if causal:
        own = torch.arange(T, device=q.device)
        keys = torch.cat([own + origin * T for origin in origins])
        wide = wide.masked_fill(keys > (own + rank * T).unsqueeze(-1), -torch.inf)
    y = torch.zeros_like(q)
    for step, weights in enumerate(wide.softmax(-1).to(v.dtype).split(T, -1)):
        v = _Shift.apply(v, group) if step else v
        y = y + weights @ v.transpose(1, 2).unsqueeze(2)
    return y.flatten(1, 2).transpose(1, 2)


def _own(states: list[Tensor], group: Group) -> Tensor:
    """This rank's of the states before every rank; in the graph of all, since the first rank has to go back as well."""
    return torch.stack(states)[dist.get_rank(group)]


def _gather(x: Tensor, group: Group) -> Tensor:
    """x of every rank [ranks, ...]."""
    gathered: Tensor = _Gather.apply(x, group)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        parts = [
            torch.empty_like(x, memory_format=torch.contiguous_format)
            for _ in range(dist.get_world_size(group))
        ]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient[dist.get_rank(ctx.group)], None


class _Shift(torch.autograd.Function):
    """x of the rank before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _pass_on(x, 1, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _pass_on(gradient, -1, ctx.group), None


def _pass_on(x: Tensor, step: int, group: Group) -> Tensor:
    """Give x to the rank `step` further round the ring, and take what comes from the other side."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    there, here = (rank + step) % world, (rank - step) % world
    operations = [
        dist.P2POp(dist.isend, x.contiguous(), group=group, group_peer=there),
        dist.P2POp(dist.irecv, received, group=group, group_peer=here),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return received
