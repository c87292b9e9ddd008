"""Gated delta rule layers of a described model: which layers, their operator from its config, their tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas.importing.config import Config
from nas.importing.description import Delta, Family
from nas.importing.weights import Part, Weights
from nas.importing.windows import FULL
from searchspace.spec.arch import OpSpec


def are_delta(family: Family, config: Config, layers: int) -> list[bool]:
    """For each layer whether it has a delta rule. Raises UsageError where layer_types names other kinds."""
    delta = family.delta
    if delta is None:
        return [False] * layers
    kinds, period = config.get("layer_types"), config.size(delta.every, family.defaults[delta.every])
    if kinds is None:
        return [bool((i + 1) % period) for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) < layers or set(kinds) - {FULL, delta.kind}:
        raise config.refuse("layer_types", f"{FULL} or {delta.kind} for each of {layers} layers")
    return [kind == delta.kind for kind in kinds[:layers]]


def delta_rule(family: Family, config: Config, eps: float) -> OpSpec:
    """The mixer of a layer. Raises UsageError naming the key where the operator gated_deltanet can't compute it.

    The family divides queries by sqrt(K), which the output norm cancels except in its epsilon; ours is K times larger.
    """
    delta, defaults = family.delta, family.defaults
    assert delta is not None
    keys, values, key_dim, value_dim, taps = (
        config.size(key, defaults[key])
        for key in (delta.keys, delta.values, delta.key_dim, delta.value_dim, delta.taps)
    )
    for key, many, few, named in (
        (delta.values, values, keys, delta.keys),
        (delta.value_dim, value_dim, key_dim, delta.key_dim),
    ):
        if many % few:
            raise config.refuse(key, f"a multiple of {named} {few}")
    return OpSpec.of(
        "gated_deltanet",
        num_groups=keys,
        heads_per_group=1,
        head_dim=key_dim,
        values_per_key=values // keys,
        expand_v=value_dim // key_dim,
        conv_taps=taps,
        beta_max=1,
        norm_eps=key_dim * eps,
    )


@dataclass(frozen=True)
class DeltaReader:
    """Reads the tensors of a gated delta rule by our names. `width` is the network's."""

    delta: Delta
    spec: OpSpec
    width: int

    def tensors(self, weights: Weights, layer: str) -> dict[str, Part]:
        names = ("num_groups", "values_per_key", "head_dim", "expand_v", "conv_taps")
        G, M, K, E, J = (self.spec[name] for name in names)
        V = E * K
        counts = {"q_proj": K, "k_proj": K, "wide_v_proj": M * V, "wide_gate_proj": M * V}
        inputs = weights.take(f"{layer}.{self.delta.inputs}.weight", G * sum(counts.values()), self.width)
        gates = weights.take(f"{layer}.{self.delta.gates}.weight", G * 2 * M, self.width)
        conv = weights.take(f"{layer}.{self.delta.conv}.weight", G * (2 * K + M * V), 1, J)
        found = {f"{name}.weight": part for name, part in _of_keys(inputs, G, counts).items()}
        found |= _of_keys(gates, G, {"wide_beta_weight": M, "wide_step_weight": M})
        start = 0
        for name, count in (("q_conv", G * K), ("k_conv", G * K), ("wide_v_conv", G * M * V)):
            # the file's taps begin with the oldest token, ours with the newest
            taps = conv.rows(start, count).moved(lambda t: t[:, 0].flip(1), count, J)
            found[f"{name}.weight"], start = taps, start + count
        for name, theirs, count in (
            ("wide_step_bias", self.delta.step, G * M),
            ("wide_log_rate", self.delta.rate, G * M),
            ("wide_norm_weight", f"{self.delta.norm}.weight", V),
        ):
            found[name] = weights.take(f"{layer}.{theirs}", count)
        out = weights.take(f"{layer}.{self.delta.out}.weight", self.width, G * M * V)
        return found | {"wide_o_proj.weight": out}


def _of_keys(part: Part, keys: int, counts: dict[str, int]) -> dict[str, Part]:
    """Split a projection whose rows are, for each of `keys` heads in turn, `counts[name]` rows of every name."""
    found, start, whole = dict[str, Part](), 0, sum(counts.values())
    for name, count in counts.items():
        first = torch.arange(keys)[:, None] * whole + start
        rows = (first + torch.arange(count)).flatten()

        def taken(t: Tensor, rows: Tensor = rows) -> Tensor:
            return t[rows]

        found[name], start = part.moved(taken, len(rows), part.shape[1]), start + count
    return found
