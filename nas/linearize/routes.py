"""Routes: ways to replace a trained network's softmax attention by attention whose cost is linear in length.

A route names the mixer that takes over a layer's projections q, k, v and o, those of its own tensors that are fitted to
the layer's attention, and the target of the fit.

    hedgehog   linear attention with learned features     fitted to the attention weights     arXiv:2402.04347
    lolcats    softmax in a window, features before it    fitted to the layer's output        arXiv:2410.10254
    liger      gated recurrence with a softmax window     no tensors to fit                   arXiv:2503.01496
    gated-delta    gated delta rule, no window            fitted to the layer's output        arXiv:2412.06464
    kda        Kimi delta attention, no window            fitted to the layer's output        arXiv:2510.26692
    mamba2     state space (SSD), no window               fitted to the layer's output        arXiv:2408.15237

The last three take over the projections and initialize everything else: short convolutions, decays, gates. They use no
rotary positions, since a recurrence knows the order of its tokens. Without a window they lose more of what softmax
attention computed, but their state has a fixed size.

mamba2 treats a state space as linear attention (Dao and Gu, "Transformers are SSMs", arXiv:2405.21060): C is the query,
B the key, u the value and W_o the output projection. Each head has its own state, so a key or value shared by a group
is repeated for each of its heads (Wang et al., "The Mamba in the Llama", arXiv:2408.15237). Its convolutions start as
the identity (Bick et al., "Transformers to SSMs", MOHAWK, arXiv:2408.10189).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas.errors import UsageError
from nas.export.llama import SIZES, why_not_plain_attention
from searchspace import registry
from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.reading import unknown

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Route:
    """`fitted` are names of tensors in the mixer, `to` is the target of their fit: weights, output or nothing.

    `projections` maps the mixer's projections to those of softmax attention that they are copied from, and `identities`
    are the weights of short convolutions that start as the identity.
    """

    name: str
    fitted: tuple[str, ...]
    to: str
    projections: Mapping[str, str] = field(default_factory=lambda: {name: name for name in PROJECTIONS})
    identities: tuple[str, ...] = ()

    def mixer(self, teacher: OpSpec, window: int) -> OpSpec:
        """The student's mixer for a layer with the softmax attention `teacher`; `window` is in tokens."""
        sizes = {name: teacher[name] for name in SIZES}
        if self.name == "hedgehog":
            features = OpSpec.of("hedgehog", softmax="halves", maps="separate")
            return OpSpec.of("linear_attention", **sizes, feature_map=features, rotary=True)
        if self.name == "lolcats":
            return OpSpec.of("lolcats", **sizes, window=window)
        if self.name in DELTA_RULES:
            return OpSpec.of(DELTA_RULES[self.name], **sizes, conv_taps=4, beta_max=1)
        if self.name == "mamba2":
            heads, width = sizes["num_groups"] * sizes["heads_per_group"], sizes["head_dim"]
            each = {"num_groups": heads, "heads_per_group": 1, "head_dim": width, "num_states": width}
            return OpSpec.of("mamba2", **each, conv_taps=4)
        return OpSpec.of("liger", **sizes, window=window, tau=16)


DELTA_RULES = {"gated-delta": "gated_deltanet", "kda": "kimi_delta"}
_CONVOLVED = ("q_conv.weight", "k_conv.weight", "v_conv.weight", "beta_weight", "norm_weight", "log_rate")
_HEDGEHOG = ("_weight", "_bias", "_key_weight", "_key_bias")
_SSD_CONVS = tuple(f"ssd_{name}_conv.weight" for name in "uBC")
_SSD = (
    "u_bias",
    "B_bias",
    "C_bias",
    "step_weight",
    "step_bias",
    "log_rate",
    "skip",
    "norm_weight",
    "gate_proj.weight",
)
ROUTES = {
    route.name: route
    for route in (
        Route("hedgehog", tuple(f"feature_map.hedgehog{n}" for n in _HEDGEHOG), "weights"),
        Route("lolcats", ("q_features", "k_features", "window_gate"), "output"),
        Route("liger", (), "nothing"),
        Route("gated-delta", (*_CONVOLVED, "step_weight", "step_bias", "gate_proj.weight"), "output"),
        Route(
            "kda",
            (*_CONVOLVED, "fade_reduce", "fade_expand", "fade_bias", "gate_reduce", "gate_expand"),
            "output",
        ),
        Route(
            "mamba2",
            (*_SSD_CONVS, *(f"ssd_{name}" for name in _SSD)),
            "output",
            {
                f"ssd_{new}_proj": f"{old}_proj"
                for new, old in zip(("C", "B", "u", "down"), "qkvo", strict=True)
            },
            _SSD_CONVS,
        ),
    )
}


def named_route(name: str) -> Route:
    """The route with this name. Raises UsageError for an unknown one."""
    if name not in ROUTES:
        raise UsageError(f"--route: {unknown(name, ROUTES)}")
    return ROUTES[name]


def chosen_layers(text: str, arch: ArchSpec, route: Route) -> list[int]:
    """The layers in `text`: all, or numbers such as 0,2. Raises UsageError for a layer that can't be linearized."""
    possible = [i for i in range(len(arch.blocks)) if why_not(arch, i, route) is None]
    if text == "all":
        if not possible:
            raise UsageError(
                f"--layers all: the route {route.name} suits no layer: {why_not(arch, 0, route)}"
            )
        return possible
    try:
        layers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(f"--layers {text}: give all, or numbers such as 0,2") from None
    for layer in layers:
        reason = why_not(arch, layer, route)
        if reason is not None:
            raise UsageError(f"--layers {text}: {reason}; layers that can: {_listed(possible)}")
    return layers


def why_not(arch: ArchSpec, layer: int, route: Route) -> str | None:
    """A sentence on why a route can't be used for a layer; None if it can."""
    if not 0 <= layer < len(arch.blocks):
        return f"there is no layer {layer}, the network has layers 0 to {len(arch.blocks) - 1}"
    mixer = arch.blocks[layer].mixer
    if mixer.op != "softmax_attention":
        return f"layer {layer} has the mixer {mixer.op}, not softmax_attention"
    reason = why_not_plain_attention(mixer)
    if reason is not None:
        return f"layer {layer} has {reason}"
    target = registry.operator("mixer", route.mixer(mixer, 1).op)
    if not arch.is_causal and not target.bidirectional:
        return f"{target.name} is for causal networks, this one has the task {arch.task}"
    return None


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"
