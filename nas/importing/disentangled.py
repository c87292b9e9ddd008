"""DeBERTa's disentangled attention: its operator from the config, its tables from the weights.

DeBERTa has one table of relative embeddings, which each layer projects to keys and queries. Here each layer stores the
projected rows, which are constants since they do not depend on the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.importing.config import Config
from nas.importing.description import Disentangled, Family
from nas.importing.parts import attention
from nas.importing.weights import Part, Weights
from searchspace.ops.attention.disentangled_attention import LEAST_LOGARITHMIC
from searchspace.spec.arch import OpSpec

TERMS = {"c2p": "c2p", "p2c": "p2c", "c2p p2c": "both"}
RELATIVE, TYPES, FARTHEST = "relative_attention", "pos_att_type", "max_relative_positions"
OFF = "none"


def disentangled_attention(family: Family, config: Config, heads: int, head_dim: int, length: int) -> OpSpec:
    """The mixer of a layer; plain attention where the config has no relative terms. `length`: longest sequence, tokens.

    Raises UsageError naming the key where the operator disentangled_attention can't compute it.
    """
    description = family.disentangled
    assert description is not None
    if description.convolution and config.get(description.convolution, 0) != 0:
        raise config.refuse(
            description.convolution,
            "0: no operator here is a convolution of the embeddings beside the first layer",
        )
    is_relative, terms = config.flag(RELATIVE, False), _words(config, TYPES, ("c2p", "p2c"))
    farthest = config.get(FARTHEST, -1)
    if not isinstance(farthest, int) or isinstance(farthest, bool):
        raise config.refuse(FARTHEST, "a whole number")
    farthest = farthest if farthest > 0 else length
    buckets = _buckets(config, description.buckets, farthest) if description.buckets else 0
    if terms and not is_relative:
        raise config.refuse(TYPES, f"nothing where {RELATIVE} is false")
    if not terms:
        return attention(heads, head_dim, heads)
    return OpSpec.of(
        "disentangled_attention",
        num_groups=heads,
        heads_per_group=1,
        head_dim=head_dim,
        terms=TERMS[" ".join(sorted(terms))],
        span=buckets or farthest,
        max_distance=farthest if buckets else 0,
    )


def _words(config: Config, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a list, or of a string separated by "|". Raises UsageError for a repeated or unknown word."""
    value = config.get(key, [])
    words = [word.strip().lower() for word in value.split("|")] if isinstance(value, str) else value
    if not isinstance(words, list) or len(set(map(str, words))) < len(words) or set(words) - set(known):
        raise config.refuse(key, f"a list of {' and '.join(known)}, each once")
    return tuple(words)


def _buckets(config: Config, key: str, farthest: int) -> int:
    """The rows on each side of distance 0 where far distances are in logarithmic buckets; 0 without buckets."""
    count = config.get(key, -1)
    if not isinstance(count, int) or isinstance(count, bool):
        raise config.refuse(key, "a whole number")
    greatest = 2 * farthest - 3  # with more buckets no distance would be left for the logarithmic ones
    if 0 < count < LEAST_LOGARITHMIC or count > greatest:
        raise config.refuse(
            key, f"-1 for none, or {LEAST_LOGARITHMIC} to {greatest} with {FARTHEST} {farthest}"
        )
    return max(count, 0)


@dataclass(frozen=True)
class DisentangledReader:
    """Reads the projected rows by our names. `width`: the network's; `eps`: of the table's norm, None without one."""

    description: Disentangled
    spec: OpSpec
    width: int
    is_shared: bool
    eps: float | None

    @classmethod
    def of(
        cls, family: Family, config: Config, spec: OpSpec, width: int, eps: float
    ) -> DisentangledReader | None:
        """None where the mixer `spec` is plain attention, which reads no table."""
        description = family.disentangled
        assert description is not None
        is_shared = bool(description.shared) and config.flag(description.shared, False)
        is_normed = bool(description.norm_key) and "layer_norm" in _words(
            config, description.norm_key, ("layer_norm", OFF)
        )
        if spec.op != "disentangled_attention":
            return None
        return cls(description, spec, width, is_shared, eps if is_normed else None)

    def tensors(self, weights: Weights, layer: str, mixer: Mapping[str, Part]) -> dict[str, Part]:
        """The tables of one layer, each [2 * span, H * K]. `mixer` holds its query and key projections by our names,
        which also project the table where the config shares them."""
        found, terms, table = {}, self.spec["terms"], self._table(weights)
        if terms != "p2c":
            found["relative_keys"] = self._mapped(table, weights, layer, mixer, "k")
        if terms != "c2p":
            found["relative_queries"] = self._mapped(table, weights, layer, mixer, "q")
        return found

    def _table(self, weights: Weights) -> Part:
        """The table [2 * span, width] in our order: distances 0, 1, ... of keys before the query, then those of keys
        after it. The file's table begins with the farthest key after the query."""
        span, names = self.spec["span"], self.description
        order = torch.cat((torch.arange(span, 2 * span), torch.arange(span - 1, -1, -1)))
        rows = weights.take(f"{names.table}.weight", 2 * span, self.width)
        if self.eps is not None:
            gain, shift = (weights.take(f"{names.norm}.{part}", self.width) for part in ("weight", "bias"))
            eps = self.eps
            rows = rows.computed(
                lambda t: F.layer_norm(t, t.shape[-1:], gain.load().float(), shift.load().float(), eps)
            )
        return rows.moved(lambda t: t[order])

    def _mapped(
        self, table: Part, weights: Weights, layer: str, mixer: Mapping[str, Part], role: str
    ) -> Part:
        d_out = self.spec["num_groups"] * self.spec["head_dim"]
        names = self.description
        if self.is_shared:
            weight, bias = mixer[f"{role}_proj.weight"], mixer.get(f"{role}_proj.bias")
        else:
            name = f"{layer}.{names.keys if role == 'k' else names.queries}"
            weight = weights.take(f"{name}.weight", d_out, self.width)
            has_bias = role == "q" or names.is_key_biased
            bias = weights.take(f"{name}.bias", d_out) if has_bias else None

        def change(rows: Tensor) -> Tensor:
            return F.linear(rows, weight.load().float(), None if bias is None else bias.load().float())

        return table.computed(change, table.shape[0], d_out)
