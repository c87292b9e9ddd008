"""Ways to replace softmax attention of a trained network by attention whose cost grows linearly with length.

A route names the mixer that takes over a layer's projections q, k, v and o, which of its own tensors are fitted to the
layer's attention, and what they are fitted to.

    hedgehog   linear attention with learned features     fitted to the attention weights     arXiv:2402.04347
    lolcats    softmax in a window, features before it    fitted to the layer's output        arXiv:2410.10254
    liger      gated recurrence beside a window           nothing of its own to fit           arXiv:2503.01496
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import UsageError
from nas.export.llama import SIZES, why_not_plain_attention
from searchspace import registry
from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.reading import unknown


@dataclass(frozen=True)
class Route:
    """`fitted` are names of tensors within the mixer, `to` what they are fitted to: weights, output or nothing."""

    name: str
    fitted: tuple[str, ...]
    to: str

    def mixer(self, teacher: OpSpec, window: int) -> OpSpec:
        """The student's mixer for a layer of softmax attention."""
        sizes = {name: teacher[name] for name in SIZES}
        if self.name == "hedgehog":
            features = OpSpec.of("hedgehog", softmax="halves")
            return OpSpec.of("linear_attention", **sizes, feature_map=features, rotary=True)
        if self.name == "lolcats":
            return OpSpec.of("lolcats", **sizes, window=window)
        return OpSpec.of("liger", **sizes, window=window, tau=16)


ROUTES = {
    route.name: route
    for route in (
        Route("hedgehog", ("feature_map.hedgehog_weight", "feature_map.hedgehog_bias"), "weights"),
        Route("lolcats", ("q_features", "k_features", "window_gate"), "output"),
        Route("liger", (), "nothing"),
    )
}


def named_route(name: str) -> Route:
    if name not in ROUTES:
        raise UsageError(f"--route: {unknown(name, ROUTES)}")
    return ROUTES[name]


def chosen_layers(text: str, arch: ArchSpec, route: Route) -> list[int]:
    """`all`, or numbers such as 0,2. Raises UsageError for a layer that can't be linearized, saying why."""
    possible = [i for i in range(len(arch.blocks)) if why_not(arch, i, route) is None]
    if text == "all":
        if not possible:
            raise UsageError(
                f"--layers all: no layer can take the route {route.name}: {why_not(arch, 0, route)}"
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
    """Why a layer can't take a route, in a sentence; None where it can."""
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
