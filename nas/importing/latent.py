"""Multi-head latent attention of a described model: its operator from its config, its tensors from its weights."""

from __future__ import annotations

from dataclasses import dataclass

from nas.importing.config import Config
from nas.importing.description import Family, Latent
from nas.importing.parts import adjacent_pairs
from nas.importing.rotary import Rotary
from nas.importing.weights import Part, Weights
from searchspace.spec.arch import OpSpec


def turned_channels(family: Family, config: Config, head_dim: int) -> int:
    """How many channels of a head rotary positions may turn: all `head_dim`, or those of latent attention's part."""
    if family.latent is None:
        return head_dim
    return config.size(family.latent.turned, family.defaults[family.latent.turned])


def latent_attention(family: Family, config: Config, heads: int, head_dim: int) -> OpSpec:
    """The mixer of a layer. Raises UsageError naming the key where the operator latent_attention can't compute it."""
    latent, defaults = family.latent, family.defaults
    assert latent is not None
    if config.size(latent.values, defaults[latent.values]) != head_dim:
        raise config.refuse(
            latent.values, f"{family.key('head_dim')} {head_dim}: values as wide as such keys"
        )
    items = {
        "num_heads": heads,
        "head_dim": head_dim,
        "kv_rank": config.size(latent.rank, defaults[latent.rank]),
        "rope_dim": turned_channels(family, config, head_dim),
    }
    if latent.query_rank in config.data and config.get(latent.query_rank) is None:
        return OpSpec.of("latent_attention", **items, query_rank=1, queries="full")
    return OpSpec.of(
        "latent_attention", **items, query_rank=config.size(latent.query_rank, defaults[latent.query_rank])
    )


@dataclass(frozen=True)
class LatentReader:
    """Reads the tensors of latent attention by our names. `width` is the network's."""

    latent: Latent
    spec: OpSpec
    width: int
    is_adjacent: bool
    rotary: Rotary

    @classmethod
    def of(cls, family: Family, config: Config, spec: OpSpec, width: int, rotary: Rotary) -> LatentReader:
        latent = family.latent
        assert latent is not None
        return cls(latent, spec, width, config.flag(latent.are_adjacent, True), rotary)

    def tensors(self, weights: Weights, layer: str) -> dict[str, Part]:
        """The tensors of one layer's mixer. Constant factors of the scores become part of the query projections."""
        H, K, E, P = (self.spec[name] for name in ("num_heads", "head_dim", "rope_dim", "kv_rank"))

        def taken(name: str, *shape: int) -> Part:
            return weights.take(f"{layer}.{name}.weight", *shape)

        down, up = taken(self.latent.down, P + E, self.width), taken(self.latent.up, H * 2 * K, P)
        found = {
            "latent_proj.weight": down.rows(0, P),
            "rotary_key_proj.weight": self._paired(down.rows(P, E)),
            "latent_norm_weight": taken(self.latent.norm, P),
            "latent_keys": _of_heads(up, H, 0, K),
            "latent_values": _of_heads(up, H, K, K),
        }
        if self.spec.get("queries") == "full":
            names, query = ("q_proj", "rotary_query_proj"), taken(self.latent.query, H * (K + E), self.width)
        else:
            rank = self.spec["query_rank"]
            found["query_latent_proj.weight"] = taken(self.latent.query_down, rank, self.width)
            found["query_norm_weight"] = taken(self.latent.query_norm, rank)
            names = ("query_up_proj", "rotary_query_up_proj")
            query = taken(self.latent.query_up, H * (K + E), rank)
        query = query.scaled(self.rotary.mscale**2)
        found[f"{names[0]}.weight"] = _of_heads(query, H, 0, K)
        turned = _of_heads(query, H, K, E).scaled(self.rotary.scores)
        found[f"{names[1]}.weight"] = self._paired(turned)
        return found

    def _paired(self, part: Part) -> Part:
        E = self.spec["rope_dim"]
        return part if self.is_adjacent else part.moved(lambda t: adjacent_pairs(t, E, E))


def _of_heads(part: Part, heads: int, start: int, count: int) -> Part:
    """`count` rows of each head, beginning with the head's row `start`. [heads * R, D] -> [heads * count, D]."""
    shape = (heads * count, part.shape[1])
    return part.moved(
        lambda t: t.reshape(heads, -1, *t.shape[1:])[:, start : start + count].flatten(0, 1), *shape
    )
