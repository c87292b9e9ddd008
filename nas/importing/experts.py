"""Mixtures of experts of a described model: their operator from its config, their tensors from its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nas.importing.config import Config
from nas.importing.description import Experts, Family
from nas.importing.weights import Part, Weights
from searchspace.spec.arch import OpSpec


def mixture(family: Family, config: Config, activation: str) -> OpSpec:
    """The FFN of a layer with experts. Raises UsageError naming the key where the operator moe can't compute it."""
    experts, defaults = family.experts, family.defaults
    assert experts is not None
    key = next((k for k in experts.count if config.get(k) is not None), experts.count[0])
    count, chosen = (
        config.size(key, defaults.get(key)),
        config.size(experts.chosen, defaults.get(experts.chosen)),
    )
    if not 2 <= chosen <= count:
        raise config.refuse(experts.chosen, f"2 to {key} {count}, as one alone has no weight to choose by")
    if experts.normalized and not config.flag(experts.normalized, defaults.get(experts.normalized, False)):
        raise config.refuse(experts.normalized, "true, so that the weights of the chosen experts sum to 1")
    if activation != "silu":
        raise config.refuse("hidden_act", "'silu' of experts")
    width = config.size(experts.width, defaults.get(experts.width))
    shared = config.size(experts.shared, defaults[experts.shared]) * width if experts.shared else 0
    if experts.shared_width:
        shared = config.size(experts.shared_width, defaults[experts.shared_width])
    more: dict[str, float] = {"shared_gate": True} if experts.shared_gate else {}
    if experts.shift:
        more["router_shift"] = True
    if experts.limit:
        more["limit"] = config.number(experts.limit, defaults[experts.limit])
    if experts.scale:
        more["scale"] = config.number(experts.scale, defaults[experts.scale])
    if experts.groups:
        more |= _groups(*experts.groups, family, config, count, chosen)
    return OpSpec.of(
        "moe",
        num_experts=count,
        top_k=chosen,
        d_expert=width,
        d_shared=shared,
        routing=experts.routing,
        **more,
    )


def _groups(
    key: str, chosen_key: str, family: Family, config: Config, count: int, top_k: int
) -> dict[str, float]:
    """Items of moe for choice within groups of experts; empty where a token chooses among all experts."""
    groups, chosen = (config.size(k, family.defaults[k]) for k in (key, chosen_key))
    if count % groups or (groups > 1 and count < 2 * groups):
        raise config.refuse(key, f"groups that share the {count} experts evenly, two at least to each")
    if chosen > groups or chosen * (count // groups) < top_k:
        raise config.refuse(
            chosen_key, f"at most {key} {groups}, with the {top_k} experts of a token in them"
        )
    return {} if chosen == groups else {"groups": groups, "chosen_groups": chosen}


def are_mixtures(family: Family, config: Config, num_layers: int) -> list[bool]:
    """For each layer whether its FFN is a mixture. Raises UsageError for a key of the wrong type."""
    experts = family.experts
    if experts is None:
        return [False] * num_layers
    first = config.get(experts.first, family.defaults[experts.first]) if experts.first else 0
    if not isinstance(first, int) or isinstance(first, bool) or first < 0:
        raise config.refuse(experts.first, "a whole number of at least 0")
    dense = config.get(experts.dense, []) if experts.dense else []
    if not isinstance(dense, list) or not all(isinstance(i, int) for i in dense):
        raise config.refuse(experts.dense, "a list of layers")
    step = config.size(experts.step, 1) if experts.step else 1
    return [i >= first and i not in dense and (i + 1) % step == 0 for i in range(num_layers)]


def expert_tensors(
    experts: Experts, spec: OpSpec, weights: Weights, layer: str, width: int
) -> dict[str, Part]:
    """The tensors of the mixture in `layer`, by our names within the FFN. `width` is the network's."""
    count, hidden = spec["num_experts"], spec["d_expert"]
    found = {
        "router_weight": weights.take(f"{layer}.{experts.router}.weight", count, width),
        "router_bias": weights.take(f"{layer}.{experts.bias}", count)
        if experts.bias
        else Part.of(torch.zeros(count)),
    }
    if experts.shift:
        found["router_shift"] = weights.take(f"{layer}.{experts.shift}", count)
    if experts.stacked:
        found |= _stacked(experts.stacked, count, hidden, width, weights, layer)
    for i in range(count):
        for role, theirs in experts.parts.items():
            shape = (width, hidden) if role == "down" else (hidden, width)
            found[f"experts.{i}.{role}.weight"] = weights.take(f"{layer}.{theirs.format(i)}.weight", *shape)
    if experts.shared_gate:
        gate = weights.take(f"{layer}.{experts.shared_gate}.weight", 1, width)
        found["shared_gate_weight"] = gate.moved(lambda t: t[0], width)
    for role, theirs in experts.shared_parts.items():
        shape = (width, spec["d_shared"]) if role == "down" else (spec["d_shared"], width)
        found[f"{role}_proj.weight"] = weights.take(f"{layer}.{theirs}.weight", *shape)
    return found


def _stacked(
    names: Mapping[str, str], count: int, hidden: int, width: int, weights: Weights, layer: str
) -> dict[str, Part]:
    """Weights and biases of each expert, from the stacked tensors of all experts."""
    found: dict[str, Part] = {}
    for role, theirs, place, step, d_in, d_out in (
        ("gate", "gate_up", 0, 2, width, hidden),
        ("up", "gate_up", 1, 2, width, hidden),
        ("down", "down", 0, 1, hidden, width),
    ):
        name = f"{layer}.{names[theirs]}"
        weight = weights.take(name, count, d_in, step * d_out)
        bias = weights.take(f"{name}_bias", count, step * d_out)
        for i in range(count):

            def columns(t: Tensor, i: int = i, place: int = place, step: int = step) -> Tensor:
                found = t[i, ..., place::step]
                return found.mT if found.dim() == 2 else found

            found[f"experts.{i}.{role}.weight"] = weight.moved(columns, d_out, d_in)
            found[f"experts.{i}.{role}.bias"] = bias.moved(columns, d_out)
    return found
