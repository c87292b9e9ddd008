"""Mixture of experts: N small FFNs, of which each token runs k, plus an optional one that every token runs.

    y = FFN_shared(x) + c sum_{i in chosen} w_i FFN_i(x)          FFN(x) = W_down (silu(W_gate x) * W_up x)
    s = sigmoid(W_r x) or softmax(W_r x)        chosen = the k largest of s + b        w_i = s_i / sum_{chosen} s

Shazeer et al., arXiv:1701.06538; softmax routing as in Mixtral, Jiang et al., arXiv:2401.04088; sigmoid routing, the
shared expert and the bias b as in DeepSeek-V3, arXiv:2412.19437. With k = 1 the normalised weight would always be 1 and
give the router no gradient, so it is s_i itself: Switch Transformer, Fedus et al., arXiv:2101.03961. c is `scale`. With
`groups` above 1 the experts form consecutive groups, and a token chooses among the experts of the `chosen_groups`
groups whose two largest s + b have the largest sum (DeepSeek-V3). The option `shared_gate` multiplies FFN_shared(x) by
sigmoid(w . x), one number per token (Qwen Team, "Qwen2 Technical Report", arXiv:2407.10671; Qwen3-Next). The option
`router_shift` adds a learned number per expert to W_r x, which also affects the weights; with `limit` L above 0 an FFN
is bounded (gpt-oss, arXiv:2508.10925):

    W_down (u sigmoid(1.702 u) * (v + 1))       u = min(W_gate x, L)       v = W_up x, at least -L and at most L

b affects which experts are chosen, never their weights. It keeps experts equally busy without an auxiliary loss (Wang
et al., arXiv:2408.15664), here for both kinds of routing: in training its gradient is an expert's share of the tokens
beyond the mean, whatever the loss. So trainers treat b like any other weight, gradients of micro-batches and processes
add up to the load of the whole batch, and AdamW turns them into steps of about the learning rate, in place of the
published b -= 0.001 sign(excess).

Every expert computes exactly the tokens that chose it, however many: no token is dropped, and no sequence depends on
others in its batch. Only a traced graph computes all experts for all tokens, since it can't depend on values.
Nested in the number of experts, in their width and in that of the shared one, which has the weights of `swiglu`.
Shapes: B batch, T time, D model width, M = B T tokens, N experts, k = top_k, E width of an expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives.activations import gated_activation
from searchspace.primitives.axes import Axis, AxisModule, fan_in, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.quantized_linear import QuantizedLinear
from searchspace.primitives.recurrence import state_dtype
from searchspace.registry import COUNT, Operator, Range
from searchspace.spec.arch import OpSpec

TINY = 1e-20
SHARPNESS = 1.702
BALANCE = 1e-3  # scale relative to the gradients of the loss, which are clipped together with it


def gated(u: Tensor, v: Tensor, limit: float) -> Tensor:
    """The input of W_down, for u and v [..., E] -> [..., E]."""
    if not limit:
        return gated_activation(u, v, "silu")
    u = u.clamp(max=limit)
    return u * torch.sigmoid(SHARPNESS * u) * (v.clamp(-limit, limit) + 1)


class Expert(AxisModule):
    def __init__(self, width: int, context: BuildContext, limit: float) -> None:
        super().__init__()
        self.limit = limit
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(E=width)
        self.gate = context.linear("gate", hidden, d_model)
        self.up = context.linear("up", hidden, d_model)
        self.down = context.linear("down", d_model, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [M, D] -> [M, D]."""
        y: Tensor = self.down(gated(self.gate(x), self.up(x), self.limit))
        return y


class MixtureOfExperts(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.N, self.k, self.d_model = spec["num_experts"], spec["top_k"], context.d_model
        self.is_sigmoid, self.scale = spec["routing"] == "sigmoid", spec.get("scale", 1.0)
        self.groups, self.chosen_groups = spec.get("groups", 1), spec.get("chosen_groups", 1)
        experts, d_model = Axis.of(N=self.N), Axis.of(D=context.d_model)
        self.declare("router_weight", (experts, d_model), fan_in())
        self.declare("router_bias", (experts,), zeros)
        self.has_shift = spec.get("router_shift", False)
        if self.has_shift:
            self.declare("router_shift", (experts,), zeros)
        self.limit = spec.get("limit", 0.0)
        self.experts = nn.ModuleList(Expert(spec["d_expert"], context, self.limit) for _ in range(self.N))
        self.has_shared = spec["d_shared"] > 0
        if self.has_shared:
            hidden = Axis.of(F=spec["d_shared"])
            self.gate_proj = context.linear("gate", hidden, d_model)
            self.up_proj = context.linear("up", hidden, d_model)
            self.down_proj = context.linear("down", d_model, hidden)
        self.gates_shared = self.has_shared and spec.get("shared_gate", False)
        if self.gates_shared:
            self.declare("shared_gate_weight", (d_model,), fan_in())

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        rows = x.flatten(0, 1)
        chosen, weights = self.route(rows)
        run = self.all_experts if torch.compiler.is_compiling() else self.chosen_experts
        y = self.scale * run(rows, chosen, weights.to(x.dtype)).view_as(x)
        if self.training:
            y = _Balanced.apply(y, self.router_bias, self.excess(chosen, tokens))
        if self.has_shared:
            shared = self.down_proj(gated(self.gate_proj(x), self.up_proj(x), self.limit))
            y = y + (self.share(x) * shared if self.gates_shared else shared)
        return y, None

    def share(self, x: Tensor) -> Tensor:
        """The weight of the shared expert [B, T, 1]."""
        return torch.sigmoid(F.linear(x, self.shared_gate_weight.unsqueeze(0)))

    def route(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [M, D] -> the experts of each token [M, k] and their weights [M, k], in at least float32."""
        scores = self.scores(rows)
        chosen = self.offered(scores.detach() + self.router_bias.detach()).topk(self.k).indices
        weights = scores.gather(1, chosen)
        return chosen, weights / (weights.sum(1, keepdim=True) + TINY) if self.k > 1 else weights

    def offered(self, biased: Tensor) -> Tensor:
        """s + b [M, N], with -inf in the groups from which a token does not choose."""
        if self.groups == self.chosen_groups:
            return biased
        grouped = biased.unflatten(1, (self.groups, -1))
        best = grouped.topk(2).values.sum(-1).topk(self.chosen_groups).indices
        kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, True)
        return grouped.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)

    def scores(self, rows: Tensor) -> Tensor:
        """s [M, N] for rows [M, D]."""
        dtype = state_dtype(rows.dtype)
        shift = self.router_shift.to(dtype) if self.has_shift else None
        logits = F.linear(rows.to(dtype), self.router_weight.to(dtype), shift)
        return torch.sigmoid(logits) if self.is_sigmoid else logits.softmax(1)

    def chosen_experts(self, rows: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum [M, D]: each expert once, on the tokens that chose it."""
        order = chosen.flatten().argsort(stable=True)
        mine = rows.unsqueeze(1).expand(-1, self.k, -1).flatten(0, 1)[order].split(self.loads(chosen))
        found = [expert(part) for expert, part in zip(self.experts, mine, strict=True) if len(part)]
        back = torch.cat(found)[order.argsort()].unflatten(0, (-1, self.k))
        return (back * weights.unsqueeze(-1)).sum(1)

    def all_experts(self, rows: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum for a traced graph: every expert on every token, with weight 0 where it was not chosen.

        `rows` [M, D], `chosen` and `weights` [M, k] -> [M, D].
        """
        shares = rows.new_zeros(rows.shape[0], self.N).scatter(1, chosen, weights)
        found = [share * e(rows) for share, e in zip(shares.T.unsqueeze(-1), self.experts, strict=True)]
        return torch.stack(found).sum(0)

    def loads(self, chosen: Tensor) -> list[int]:
        """Number of tokens of each expert, for `chosen` [M, k]; as equal as possible on the meta device."""
        if chosen.is_meta:
            return even_loads(chosen.numel(), self.N)
        found: list[int] = torch.bincount(chosen.flatten(), minlength=self.N).tolist()
        return found

    def excess(self, chosen: Tensor, tokens: Tokens) -> Tensor:
        """Each expert's share of the real tokens minus the mean over experts [N]."""
        bias = self.router_bias.detach()
        real = bias.new_ones(len(chosen)) if tokens.valid is None else tokens.valid.flatten().to(bias)
        loads = torch.zeros_like(bias).index_add(0, chosen.flatten(), real.repeat_interleave(self.k))
        return loads / real.sum().clamp_min(1.0) - self.k / self.N


class _Balanced(torch.autograd.Function):
    """Returns y unchanged; the gradient of the bias is its expert's excess load."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor, excess: Tensor) -> Tensor:
        ctx.save_for_backward(excess)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], BALANCE * ctx.saved_tensors[0], None


def even_loads(num_rows: int, num_experts: int) -> list[int]:
    each, more = divmod(num_rows, num_experts)
    return [each + (i < more) for i in range(num_experts)]


def reference(module: MixtureOfExperts, x: Tensor, tokens: Tokens) -> Tensor:
    """Token by token, choice by choice, in the order of the scores. x [B, T, D] -> [B, T, D]."""
    rows = x.flatten(0, 1)
    scores = module.scores(rows)
    found = []
    for row, s, biased in zip(rows, scores, (scores + module.router_bias).tolist(), strict=True):
        places = list(range(module.N))
        size = module.N // module.groups
        groups = [places[i : i + size] for i in range(0, module.N, size)]
        if module.groups > module.chosen_groups:
            groups.sort(key=lambda group: sum(sorted(biased[i] for i in group)[-2:]), reverse=True)
            places = [i for group in groups[: module.chosen_groups] for i in group]
        ranked = sorted(places, key=biased.__getitem__, reverse=True)[: module.k]
        total = sum(s[i] for i in ranked) + TINY if module.k > 1 else torch.ones_like(s[0])
        parts = [(s[i] / total).to(x.dtype) * module.experts[i](row.unsqueeze(0))[0] for i in ranked]
        found.append(module.scale * torch.stack(parts).sum(0))
    y = torch.stack(found).view_as(x)
    if module.has_shared:
        gate, up = module.gate_proj(x), module.up_proj(x)
        if module.limit:
            gate, up = (
                torch.minimum(gate, gate.new_tensor(module.limit)),
                up.clamp(-module.limit, module.limit) + 1,
            )
        sharpness = SHARPNESS if module.limit else 1.0
        shared = module.down_proj(gate / (1 + (-sharpness * gate).exp()) * up)
        if module.gates_shared:
            shared = shared / (1 + (-(x * module.shared_gate_weight).sum(-1, keepdim=True)).exp())
        y = y + shared
    return y


def flops(module: MixtureOfExperts, T: int, S: int) -> int:
    """Return the FLOPs of the experts that run: k per token, and the shared one."""
    loads = even_loads(T * module.k, module.N)
    experts = sum(_linear_flops(e, load) for e, load in zip(module.experts, loads, strict=True))
    shared = [module.gate_proj, module.up_proj, module.down_proj] if module.has_shared else []
    rows = module.N + module.gates_shared  # outputs of the router and the gate
    return 2 * T * rows * module.d_model + experts + sum(_linear_flops(part, T) for part in shared)


def _linear_flops(part: nn.Module, rows: int) -> int:
    linear: list[Any] = [p for p in part.modules() if hasattr(p, "role")]
    return sum(
        2 * rows * p.N * p.K
        if isinstance(p, QuantizedLinear)
        else registry.operator("projection", p.kind).flops(p, rows, rows)
        for p in linear
    )


def idle(module: MixtureOfExperts) -> Sequence[nn.Module]:
    return list(module.experts)[module.k :]


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["top_k"] > spec["num_experts"]:
        return f"moe: top_k = {spec['top_k']} must be at most num_experts = {spec['num_experts']}"
    groups, chosen = spec.get("groups", 1), spec.get("chosen_groups", 1)
    if spec["num_experts"] % groups or (groups > 1 and spec["num_experts"] < 2 * groups):
        return f"moe: groups = {groups} must share num_experts = {spec['num_experts']} evenly, two at least to each"
    if chosen > groups or spec["top_k"] > chosen * (spec["num_experts"] // groups):
        least = f"and have top_k = {spec['top_k']} experts"
        return f"moe: chosen_groups = {chosen} must be at most groups = {groups} {least}"
    if spec.get("shared_gate") and not spec["d_shared"]:
        return "moe: shared_gate = True needs a shared expert, d_shared above 0"
    return None


OPERATOR = Operator(
    name="moe",
    slot="ffn",
    paper="Shazeer et al. 2017, arXiv:1701.06538; Mixtral, arXiv:2401.04088; DeepSeek-V3, arXiv:2412.19437",
    build=MixtureOfExperts,
    reference=reference,
    choices={
        "num_experts": (4, 8),
        "top_k": (1, 2),
        "d_expert": (32, 64),
        "d_shared": (0, 64),
        "routing": ("softmax", "sigmoid"),
    },
    options={"shared_gate": (False, True), "router_shift": (False, True)},
    fixed={"scale": 1.0, "groups": 1, "chosen_groups": 1, "limit": 0.0},
    ranges={
        "num_experts": Range(1, 1024, "each is a part of its own"),
        "top_k": Range(1, 1024, "each is a part of its own"),
        "d_shared": COUNT,
        "scale": Range(0, 100, above=True, fractions=True),
        "limit": Range(0, 1000, fractions=True),
    },
    flops=flops,
    idle=idle,
    why_invalid=why_invalid,
    counts_projections=True,
    quantizable=("gate", "up", "down"),
    catalogue=(126,),
    complexity="T D (k E + N + F)",
)
