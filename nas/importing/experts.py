"""FFNs of a described model that are mixtures of experts: their operator from its config, their tensors."""

from __future__ import annotations

import torch

from nas.importing.config import Config
from nas.importing.description import Experts
from nas.importing.weights import Part, Weights
from searchspace.spec.arch import OpSpec


def mixture(experts: Experts, config: Config, activation: str) -> OpSpec:
    """Raises UsageError naming the key of what the operator moe does not compute."""
    key = next((k for k in experts.count if config.get(k) is not None), experts.count[0])
    count, chosen = config.size(key), config.size(experts.chosen)
    if not 2 <= chosen <= count:
        raise config.refuse(experts.chosen, f"2 to {key} {count}, as one alone has no weight to choose by")
    if experts.normalized and not config.flag(experts.normalized, False):
        raise config.refuse(experts.normalized, "true, so that the weights of the chosen experts sum to 1")
    if activation != "silu":
        raise config.refuse("hidden_act", "'silu' of experts")
    return OpSpec.of(
        "moe",
        num_experts=count,
        top_k=chosen,
        d_expert=config.size(experts.width),
        d_shared=0,
        routing="softmax",
    )


def are_mixtures(experts: Experts | None, config: Config, num_layers: int) -> list[bool]:
    """Which layers have experts."""
    if experts is None:
        return [False] * num_layers
    dense = config.get(experts.dense, []) if experts.dense else []
    if not isinstance(dense, list) or not all(isinstance(i, int) for i in dense):
        raise config.refuse(experts.dense, "a list of layers")
    step = config.size(experts.step, 1) if experts.step else 1
    return [i not in dense and (i + 1) % step == 0 for i in range(num_layers)]


def expert_tensors(
    experts: Experts, spec: OpSpec, weights: Weights, layer: str, width: int
) -> dict[str, Part]:
    """By our names in the FFN of a layer."""
    count, hidden = spec["num_experts"], spec["d_expert"]
    found = {
        "router_weight": weights.take(f"{layer}.{experts.router}.weight", count, width),
        "router_bias": Part.of(torch.zeros(count)),
    }
    for i in range(count):
        for role, theirs in experts.parts.items():
            shape = (width, hidden) if role == "down" else (hidden, width)
            found[f"experts.{i}.{role}.weight"] = weights.take(f"{layer}.{theirs.format(i)}.weight", *shape)
    return found
