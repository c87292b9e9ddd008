"""The supernet: a store of weights of which every architecture of a space uses slices.

There is one model implementation. A sub-network is that model built without storage and run with slices of the stored
tensors, so training one updates exactly what it uses, nothing has to be switched or reset, and extraction gives the
same network by construction. Operators of one slot share tensors of the same name (q, k, v, o, up, gate, down); other
tensors belong to one operator.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from searchspace.model import Builder, Model, build_part, parts
from searchspace.primitives.axes import Declared, declared_tensors
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.number_formats import rounded_weight
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, Format, OpSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import BlockSpace, Slot, SpaceSpec
from searchspace.supernet.slicing import take, widest


class Supernet:
    """Shared weights of a space; `seed` alone determines the initial values, tensor by tensor.

    Given `tensors` [...] by name replace initial values. Raises ValueError where two operators of one slot declare the
    same tensor with different axes.
    """

    def __init__(
        self,
        space: SpaceSpec,
        seed: int = 0,
        device: str | torch.device = "cpu",
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.space = space
        self.declared = declarations(space)
        given = tensors or {}
        self.tensors: dict[str, Tensor] = {
            name: (
                given[name] if name in given else _initial(name, declared, seed).to(device)
            ).requires_grad_(declared.role == "parameter")
            for name, declared in self.declared.items()
        }
        self._skeletons = threading.local()
        self._wanted = lru_cache(1 << 14)(_wanted)

    @property
    def _skeleton(self) -> Builder:
        """Builds and caches parts, separately in each thread, since running a network puts its weights in them."""
        if not hasattr(self._skeletons, "build"):
            self._skeletons.build = lru_cache(1 << 14)(_on_meta)
        build: Builder = self._skeletons.build
        return build

    def parameters(self) -> list[Tensor]:
        """Return the trainable tensors, each [...]."""
        return [t for t in self.tensors.values() if t.requires_grad]

    def weights(self, arch: ArchSpec) -> dict[str, Tensor]:
        """Return the slices [...] that `arch` uses by their names in its model, in native precision.

        Raises ValueError for an architecture outside the space.
        """
        found = {}
        for name, slot, spec, context in parts(arch.unquantized):
            for tensor, axes in self._wanted(name, slot, spec, context, self._skeleton):
                if tensor not in self.tensors:
                    raise ValueError(f"the supernet of space {self.space.name} has no tensor {tensor}")
                try:
                    found[tensor] = take(self.tensors[tensor], self.declared[tensor].axes, axes)
                except RuntimeError:
                    have, want = self.declared[tensor].shape, tuple(a.size for a in axes)
                    raise ValueError(
                        f"tensor {tensor}: the supernet of space {self.space.name} holds {have}, "
                        f"the architecture wants {want}"
                    ) from None
        return found

    def forward(
        self, arch: ArchSpec, inputs: Tensor, training: bool = True, tokens: Tokens | None = None
    ) -> Tensor:
        """Return the logits of a sub-network for inputs [B, ...]; in training, gradients reach the shared tensors.

        Weights with a format are rounded to it, with a straight-through gradient; activations are not.
        """
        model = Model(arch.unquantized, self._skeleton).train(training)
        weights = self.weights(arch)
        for i, block in enumerate(arch.blocks):
            if block.quant.roles:
                for path, part in model.part(f"blocks.{i}").named_modules(prefix=f"blocks.{i}"):
                    fmt = block.quant.of_role(getattr(part, "role", ""))
                    if fmt != Format():
                        weights[f"{path}.weight"] = rounded_weight(weights[f"{path}.weight"], fmt)
        return functional_call(model, weights, (inputs, tokens))[0]

    def extract(self, arch: ArchSpec, copy: bool = True) -> Model:
        """Return the sub-network as a model in native precision and evaluation mode.

        Without `copy` it shares storage. Number formats are applied by searchspace.quantization.apply.
        """
        arch = arch.unquantized
        weights = {n: t.detach().clone() if copy else t.detach() for n, t in self.weights(arch).items()}
        return Model.from_weights(arch, weights).requires_grad_(copy).eval()


def _on_meta(slot: str, spec: OpSpec | BlockSpec, context: BuildContext) -> nn.Module:
    with torch.device("meta"):
        return build_part(slot, spec, context)


def _wanted(
    name: str, slot: str, spec: OpSpec | BlockSpec, context: BuildContext, build: Builder
) -> list[tuple[str, tuple[Any, ...]]]:
    return [(full, d.axes) for full, d in declared_tensors(build(slot, spec, context), prefix=name)]


def _initial(name: str, declared: Declared, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    tensor = torch.empty(declared.shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        declared.init(tensor)
    return tensor


def declarations(space: SpaceSpec) -> dict[str, Declared]:
    """Return every tensor that some architecture of the space uses, at its widest, in a fixed order."""
    found: dict[str, Declared] = {}
    for arch in _covering(space):
        for name, slot, spec, context in parts(arch):
            for full, declared in declared_tensors(_on_meta(slot, spec, context), prefix=name):
                found[full] = widest(full, found[full], declared) if full in found else declared
    return found


def _covering(space: SpaceSpec) -> Iterator[ArchSpec]:
    """Architectures that together use every tensor of the space at full width."""
    encoding = Encoding(space)
    widest_genome = [max(range(len(v.values)), key=lambda i: _size(v.values[i])) for v in encoding.variables]
    base = encoding.decode(tuple(int(g) for g in widest_genome))
    spaces = [b for stage in space.stages for b in stage.blocks]
    per_block = [list(_covering_blocks(b)) for b in spaces]
    positions, norms = _settings(space.position), _settings(space.final_norm)
    enters = [_settings(s.enter) for s in space.stages]
    leaves = [_settings(s.leave) for s in space.stages]
    options: list[Any] = [*per_block, positions, norms, *enters, *leaves]
    count = max(map(len, options))
    for i in range(count):
        stages = tuple(
            type(stage)(stage.num_blocks, stage.d_model, e[i % len(e)], v[i % len(v)], stage.repeats)
            for stage, e, v in zip(base.stages, enters, leaves, strict=True)
        )
        yield ArchSpec(
            task=base.task,
            stem=base.stem,
            d_model=base.d_model,
            blocks=tuple(options[i % len(options)] for options in per_block),
            stages=stages,
            position=positions[i % len(positions)],
            final_norm=norms[i % len(norms)],
            head=base.head,
        )


def _size(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _covering_blocks(block: BlockSpace) -> Iterator[BlockSpec]:
    for projection in _settings(block.projection):
        for mixer in _settings(block.mixer):
            yield BlockSpec(mixer=mixer, projection=projection)
        for ffn in _settings(block.ffn):
            yield BlockSpec(ffn=ffn, projection=projection)
    filler_mixer, filler_ffn = _settings(block.mixer)[-1], _settings(block.ffn)[-1]
    mixer = next((m for m in _settings(block.mixer) if m != NONE), filler_mixer)
    ffn = next((f for f in _settings(block.ffn) if f != NONE), filler_ffn)
    for norm, placement in product(_settings(block.norm), block.placement.values):
        yield BlockSpec(mixer=mixer, ffn=ffn, norm=norm, placement=str(placement))


def _settings(slot: Slot) -> list[OpSpec]:
    """Each candidate with its largest sizes, in settings that together cover every value that is not a size.

    Not every combination: a tensor exists because of one choice, not because of two together.
    """
    found = []
    for candidate in slot.candidates:
        names = [name for name, _ in candidate.items]
        domains = [_settings(d) if isinstance(d, Slot) else _extremes(d.values) for _, d in candidate.items]
        for i in range(max(map(len, domains), default=1)):
            found.append(
                OpSpec(candidate.op, tuple(zip(names, (d[i % len(d)] for d in domains), strict=True)))
            )
    return found


def _extremes(values: tuple[Any, ...]) -> tuple[Any, ...]:
    is_size = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return (max(values),) if is_size else values
