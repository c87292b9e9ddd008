"""Blocks of a described model: their operators from its config, their tensors from its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas.importing.config import Config
from nas.importing.delta import DeltaReader, are_delta, delta_rule
from nas.importing.description import Family
from nas.importing.disentangled import DisentangledReader, disentangled_attention
from nas.importing.experts import are_mixtures, expert_tensors, mixture
from nas.importing.latent import LatentReader, latent_attention
from nas.importing.parts import ACTIVATIONS, GATES, adjacent_pairs, attention, below, feed_forward
from nas.importing.rotary import Rotary
from nas.importing.weights import Part, Weights
from nas.importing.windows import unturned, windows
from searchspace.primitives.score_bias import alibi_slopes
from searchspace.spec.arch import NONE, BlockSpec, OpSpec

BEHIND_NORM = ("q", "k", "v", "gate", "up")  # projections that read a block's normalized input
ROLES = {"qkv": ("q", "k", "v"), "o": ("o",), "ffn": ("gate", "up", "down")}


@dataclass(frozen=True)
class Sizes:
    """`layers`: the number of blocks that run; `length`: the longest sequence in tokens."""

    width: int
    layers: int
    heads: int
    groups: int
    head_dim: int
    d_ff: int
    length: int

    @property
    def d_q(self) -> int:
        return self.heads * self.head_dim

    @property
    def d_kv(self) -> int:
        return self.groups * self.head_dim


@dataclass(frozen=True)
class Scales:
    """Constant factors of a family, 1 by default. Logits are divided by `logits`, the others multiply."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0
    scores: float = 1.0


def size(family: Family, config: Config, name: str, missing: int | None = None) -> int:
    """The size `name`, one of KEYS. Where the config lacks its key: the family's default, else `missing`."""
    key = family.key(name)
    assert key is not None
    default = family.defaults.get(key, missing) if key not in config.data else missing
    return config.size(key, default)


def sizes(family: Family, config: Config, length: int) -> Sizes:
    """The sizes of the blocks. Raises UsageError where the key heads don't divide the heads."""
    width, heads = (size(family, config, name) for name in ("width", "heads"))
    key = family.key("head_dim")
    head_dim = config.get(key, family.defaults.get(key)) if key else None
    if head_dim is None:
        head_dim = config.parts(str(family.key("width")), str(family.key("heads")))
    elif key is not None:
        head_dim = size(family, config, "head_dim", head_dim)
    groups = size(family, config, "groups", heads) if family.key("groups") else heads
    if heads % groups:
        raise config.refuse(str(family.key("groups")), f"a divisor of {family.key('heads')} {heads}")
    if family.key("d_ff") is None:
        d_ff = config.size("mlp_ratio", family.defaults["mlp_ratio"]) * width
    else:
        d_ff = size(family, config, "d_ff", family.d_ff_ratio * width or None)
    return Sizes(width, size(family, config, "layers"), heads, groups, head_dim, d_ff, length)


def scales(family: Family, config: Config, dims: Sizes, rotary: Rotary | None) -> Scales:
    """The family's factors; `scores` includes the factor of the rotary positions."""
    found = {}
    for name, rule in family.scales.items():
        if rule == "sqrt_width":
            found[name] = math.sqrt(dims.width)
        elif rule == "undivided":
            found[name] = math.sqrt(dims.head_dim)
        elif rule == "query_scalar":
            scalar = config.number("query_pre_attn_scalar", family.defaults["query_pre_attn_scalar"])
            found[name] = math.sqrt(dims.head_dim / scalar)
        else:
            factor = config.number(rule, 1.0)
            found[name] = factor * math.sqrt(dims.head_dim) if name == "scores" else factor
    found["scores"] = found.get("scores", 1.0) * (rotary.scores if rotary else 1.0)
    return Scales(**found)


def eps_of(family: Family, config: Config) -> float:
    """The epsilon of the family's norms."""
    key = family.key("eps")
    return float(family.defaults["eps"]) if key is None else config.number(key, family.defaults[key])


def norm_of(family: Family, config: Config) -> OpSpec:
    return OpSpec.of(family.norm, eps=eps_of(family, config))


def activation_of(family: Family, config: Config) -> str:
    """Our name for the activation of the FFN. Raises UsageError for an unsupported one."""
    key = family.key("activation")
    if key is None:
        return "silu"
    return config.one_of(key, GATES if family.is_gated else ACTIVATIONS, family.defaults.get(key, ""))


def biased(family: Family, config: Config) -> tuple[str, ...]:
    """The roles, such as "q" and "down", whose projections have a bias."""
    found: list[str] = []
    for group, roles in ROLES.items():
        for role in (role for role in roles if role != "gate" or family.is_gated):
            said = family.biases.get(role, family.biases.get(group, False))
            if isinstance(said, str):
                said = config.flag(said, bool(family.defaults.get(said, False)))
            if said:
                found.append(role)
    return tuple(found)


def block_specs(family: Family, config: Config, dims: Sizes, rotary: Rotary | None) -> tuple[BlockSpec, ...]:
    """The block of each layer that runs."""
    held, activation = biased(family, config), activation_of(family, config)
    behind_norm = BEHIND_NORM if is_parallel(family, config) else ()  # their biases take the norm's shift
    every = [role for group in ROLES.values() for role in group if role != "gate" or family.is_gated]
    roles = [role for role in every if role in held or role in behind_norm]
    bias: bool | str = len(roles) == len(every) or ",".join(roles)
    qk_norm = OpSpec.of(family.qk_norm, eps=eps_of(family, config)) if family.qk_norm else NONE
    mixed = are_mixtures(family, config, dims.layers)
    cap = capping(family, config, "attn_logit_softcapping")
    are_recurrent = are_delta(family, config, dims.layers)
    seen, straight = windows(family, config, dims.layers), unturned(family, config, dims.layers)
    found = []
    for window, is_unturned, has_experts, is_recurrent in zip(
        seen, straight, mixed, are_recurrent, strict=True
    ):
        more: dict[str, object] = {"window": window if window < dims.length else 0}
        if family.relative:
            buckets = config.size(
                "relative_attention_num_buckets", family.defaults["relative_attention_num_buckets"]
            )
            more["score_bias"] = OpSpec.of("relative_table", num_buckets=buckets)
        if family.has_alibi:
            more["score_bias"] = OpSpec("alibi")
        if is_unturned:
            more["rotary"] = "none"
        elif rotary and rotary.is_local and window:
            more["rotary"] = "local"
        if rotary and rotary.share != 1.0 and not is_unturned:
            more["rotary_share"] = rotary.share
        if cap:
            more["logit_softcap"] = cap
        if family.sinks:
            more["sink_logit"] = True
        if family.output_gate:
            more["output_gate"] = "element"
        found.append(
            BlockSpec(
                mixer=delta_rule(family, config, eps_of(family, config))
                if is_recurrent
                else latent_attention(family, config, dims.heads, dims.head_dim)
                if family.latent
                else disentangled_attention(family, config, dims.heads, dims.head_dim, dims.length)
                if family.disentangled
                else attention(dims.heads, dims.head_dim, dims.groups, qk_norm, **more),
                ffn=mixture(family, config, activation)
                if has_experts
                else feed_forward(dims.d_ff, activation, family.is_gated),
                norm=norm_of(family, config),
                projection=OpSpec.of("dense", bias=bias or False),
                placement="parallel" if is_parallel(family, config) else family.placement,
            )
        )
    return tuple(found)


def has_shift(family: Family, config: Config) -> bool:
    """Whether the family's LayerNorms have a shift."""
    return config.flag(family.norm_bias, False) if family.norm_bias else True


def capping(family: Family, config: Config, key: str) -> float:
    """The soft cap on scores or logits, 0 for none."""
    if key not in family.defaults:
        return 0.0
    default = family.defaults[key] if key not in config.data else None
    return config.number(key, 0.0) if config.get(key) is not None else default or 0.0


def is_parallel(family: Family, config: Config) -> bool:
    """Whether attention and FFN of a block read the same input."""
    key = family.parallel
    return config.flag(key, family.defaults[key]) if isinstance(key, str) else key


def without_first_norm(
    blocks: tuple[BlockSpec, ...], tensors: dict[str, Part]
) -> tuple[tuple[BlockSpec, ...], dict[str, Part]]:
    """Split the first block in two: its mixer without a norm, then its FFN. The numbers of later blocks grow by one."""

    def moved(name: str) -> str:
        _, number, part = name.split(".", 2)
        is_first = number == "0" and part.startswith("mixer.")
        return name if is_first else f"blocks.{int(number) + 1}.{part}"

    alone = replace(blocks[0], ffn=NONE, norm=NONE)
    split = (alone, replace(blocks[0], mixer=NONE), *blocks[1:])
    return split, {moved(name): part for name, part in tensors.items()}


class BlockReader:
    """Reads the tensors of the blocks by our names."""

    def __init__(
        self,
        family: Family,
        config: Config,
        weights: Weights,
        dims: Sizes,
        factors: Scales,
        rotary: Rotary | None,
    ) -> None:
        self.family, self.weights, self.dims, self.factors = family, weights, dims, factors
        self.roles, self.turned = biased(family, config), 0
        self.is_parallel = is_parallel(family, config)
        self.has_shift = has_shift(family, config)
        self.mixed = are_mixtures(family, config, dims.layers)
        self.mixture = mixture(family, config, activation_of(family, config)) if family.experts else NONE
        self.latent: LatentReader | None = None
        if family.latent and rotary:
            spec = latent_attention(family, config, dims.heads, dims.head_dim)
            self.latent = LatentReader.of(family, config, spec, dims.width, rotary)
        self.disentangled: DisentangledReader | None = None
        if family.disentangled:
            spec = disentangled_attention(family, config, dims.heads, dims.head_dim, dims.length)
            self.disentangled = DisentangledReader.of(
                family, config, spec, dims.width, eps_of(family, config)
            )
        self.recurrent = are_delta(family, config, dims.layers)
        self.delta: DeltaReader | None = None
        if family.delta:
            rule = delta_rule(family, config, eps_of(family, config))
            self.delta = DeltaReader(family.delta, rule, dims.width)
        if rotary and not family.are_adjacent:
            self.turned = round(dims.head_dim * rotary.share)

    def tensors(self) -> dict[str, Part]:
        found: dict[str, Part] = {}
        count = 1 if self.family.is_shared else self.dims.layers
        for i in range(count):
            layer = self.family.layers.format(i)
            for ours, theirs in self.family.parts.items():
                if self.is_parallel and "norm" in ours:
                    continue
                if self.mixed[i] and ours.startswith("ffn."):
                    continue
                if self.recurrent[i] and ours.startswith("mixer."):
                    continue
                if ours == "mixer_norm_in" and not i and not self.family.is_normed_at_first:
                    continue
                read = self._norm if "norm" in ours else self._map
                found |= below(f"blocks.{i}.{ours}", read(layer, ours, theirs))
            if self.mixed[i]:
                assert self.family.experts is not None
                held = expert_tensors(self.family.experts, self.mixture, self.weights, layer, self.dims.width)
                found |= below(f"blocks.{i}.ffn", held)
            if self.disentangled:
                mixer = f"blocks.{i}.mixer"
                held = {n.removeprefix(f"{mixer}."): p for n, p in found.items() if n.startswith(mixer)}
                found |= below(mixer, self.disentangled.tensors(self.weights, layer, held))
            if self.latent:
                found |= below(f"blocks.{i}.mixer", self.latent.tensors(self.weights, layer))
            if self.is_parallel:
                plain = {"weight": torch.ones(self.dims.width), "bias": torch.zeros(self.dims.width)}
                found |= {f"blocks.{i}.shared_norm_in.{n}": Part.of(t) for n, t in plain.items()}
            if self.delta and self.recurrent[i]:
                found |= below(f"blocks.{i}.mixer", self.delta.tensors(self.weights, layer))
            elif self.family.qk_norm:
                found |= below(f"blocks.{i}.mixer.qk_norm", dict(self._qk_norms(layer)))
            if self.family.sinks:
                sinks = self.weights.take(f"{layer}.{self.family.sinks}", self.dims.heads)
                found[f"blocks.{i}.mixer.sink_logits"] = sinks
            if self.family.has_alibi:
                slopes = torch.tensor(alibi_slopes(self.dims.heads))
                found[f"blocks.{i}.mixer.score_bias.slopes"] = Part.of(slopes)
            if self.family.relative:
                found[f"blocks.{i}.mixer.score_bias.table"] = self._relative()
        return found

    def _norm(self, layer: str, ours: str, theirs: str) -> dict[str, Part]:
        return norm_tensors(
            self.family, self.weights, f"{layer}.{theirs}", self.dims.width, has_shift=self.has_shift
        )

    def _relative(self) -> Part:
        name = f"{self.family.relative}.weight"
        held = self.weights.tensors.get(name)
        buckets, heads = held.shape if held is not None and len(held.shape) == 2 else (0, self.dims.heads)
        return self.weights.take(name, buckets, heads).moved(lambda t: t.T, heads, buckets)

    def _qk_norms(self, layer: str) -> Iterator[tuple[str, Part]]:
        is_joint = self.family.qk_norm == "qk_rms_joint"
        for role, whole in (("q", self.dims.d_q), ("k", self.dims.d_kv)):
            count = whole if is_joint else self.dims.head_dim
            gain = self.weights.take(f"{layer}.self_attn.{role}_norm.weight", count)
            scale = self.factors.scores if role == "q" else 1.0
            yield f"{role}_weight", self._paired(_gain(self.family, gain).scaled(scale))

    def _paired(self, part: Part) -> Part:
        if not self.turned:
            return part
        return part.moved(lambda t: adjacent_pairs(t, self.dims.head_dim, self.turned))

    def _map(self, layer: str, ours: str, theirs: str) -> dict[str, Part]:
        """Weight and, where it has one, bias of one projection. `theirs` is as in nas.importing.description."""
        role, dims = ours.split(".")[1].removesuffix("_proj"), self.dims
        d_out, d_in = {
            "q": (dims.d_q, dims.width),
            "k": (dims.d_kv, dims.width),
            "v": (dims.d_kv, dims.width),
            "o": (dims.width, dims.d_q),
            "down": (dims.width, dims.d_ff),
        }.get(role, (dims.d_ff, dims.width))
        if ours == "mixer.gate_proj":
            d_out = dims.d_q
        place, _, factor = theirs.partition("*")
        place, _, own_bias = place.partition("+")
        name, _, piece = place.partition("#")
        rows, whole = self._rows(piece, d_out)
        found = {"weight": self._weight(f"{layer}.{name}.weight", whole, d_in)}
        if role in self.roles and not own_bias:
            found["bias"] = self.weights.take(f"{layer}.{name}.bias", whole)
        if rows is not None:
            index = rows
            found = {k: p.moved(lambda t: t[index], len(index), *p.shape[1:]) for k, p in found.items()}
        if own_bias:
            found["bias"] = self.weights.take(f"{layer}.{own_bias}", d_out)
        if self.is_parallel and role in BEHIND_NORM:
            norm = self.family.parts[f"{ours.split('.')[0]}_norm_in"]
            found = _behind_norm(
                found, norm_tensors(self.family, self.weights, f"{layer}.{norm}", dims.width)
            )
        if factor:
            gain = self.weights.take(f"{layer}.{factor}", d_out)
            found = {k: _times(p, gain) for k, p in found.items()}
        if role in ("q", "k"):
            found = {k: self._paired(p) for k, p in found.items()}
        if role == "q" and not self.family.qk_norm:
            found = {k: p.scaled(self.factors.scores) for k, p in found.items()}
        if role in ("o", "down"):
            found = {k: p.scaled(self.factors.residual) for k, p in found.items()}
        return found

    def _weight(self, name: str, d_out: int, d_in: int) -> Part:
        if not self.family.is_transposed:
            return self.weights.take(name, d_out, d_in)
        return self.weights.take(name, d_in, d_out).moved(lambda t: t.T, d_out, d_in)

    def _rows(self, piece: str, d_out: int) -> tuple[Tensor | None, int]:
        """(indices of a projection's rows in the tensor that holds it, None for all; that tensor's number of rows)."""
        dims = self.dims
        if not piece:
            return None, d_out
        if piece.startswith("half:"):
            each = torch.arange(2 * d_out).view(-1, 2, dims.head_dim)
            return each[:, int(piece[-1])].flatten(), 2 * d_out
        if piece.startswith("each:"):
            queries, count = dims.heads // dims.groups, dims.d_q + 2 * dims.d_kv
            each = torch.arange(count).view(dims.groups, queries + 2, dims.head_dim)
            first = {"q": 0, "k": queries, "v": queries + 1}[piece[-1]]
            return each[:, first : first + d_out // dims.d_kv].flatten(), count
        if piece in "01":
            return torch.arange(dims.d_ff) + int(piece) * dims.d_ff, 2 * dims.d_ff
        start = {"q": 0, "k": dims.d_q, "v": dims.d_q + dims.d_kv}[piece]
        return torch.arange(start, start + d_out), dims.d_q + 2 * dims.d_kv


def norm_tensors(
    family: Family, weights: Weights, name: str, width: int, factor: float = 1.0, has_shift: bool = True
) -> dict[str, Part]:
    """Gain plus the family's offset, and shift of a norm, both times `factor`, each [width]."""
    if not family.has_gains:
        plain = {"weight": torch.full((width,), factor), "bias": torch.zeros(width)}
        return {part: Part.of(held) for part, held in plain.items()}
    found = {"weight": weights.take(f"{name}.weight", width)}
    if family.norm == "layernorm":
        found["bias"] = weights.take(f"{name}.bias", width) if has_shift else Part.of(torch.zeros(width))
    found["weight"] = _gain(family, found["weight"])
    return {k: p.scaled(factor) for k, p in found.items()}


def _gain(family: Family, held: Part) -> Part:
    return held.computed(lambda t: t + family.norm_offset) if family.norm_offset else held


def _behind_norm(held: dict[str, Part], norm: dict[str, Part]) -> dict[str, Part]:
    """Fold a norm's gain g and shift s into a projection: W (g z + s) + c = (W diag(g)) z + (W s + c)."""
    gain, shift, weight, bias = norm["weight"], norm["bias"], held["weight"], held.get("bias")

    def moved_bias() -> Tensor:
        moved = weight.load().float() @ shift.load().float()
        return moved if bias is None else bias.load().float() + moved

    return {
        "weight": weight.computed(lambda t: t * gain.load().float()),
        "bias": Part(weight.shape[:1], torch.float32, moved_bias),
    }


def _times(part: Part, gain: Part) -> Part:
    return part.computed(lambda t: t * gain.load().float().view(-1, *[1] * (t.dim() - 1)))
