"""Folding: replace operators by simpler ones that they equal once trained (a batch normalisation by its affine map)."""

from __future__ import annotations

from dataclasses import replace

from searchspace import registry
from searchspace.model import Model
from searchspace.spec.arch import NONE, OpSpec


def fold(model: Model) -> Model:
    """A model that computes the same in evaluation mode; the same object where there is nothing to fold."""
    weights = dict(model.state_dict())
    arch = model.arch

    def folded(spec: OpSpec, paths: list[str]) -> OpSpec:
        entry = registry.operator("norm", spec.op)
        if spec == NONE or entry.fold is None:
            return spec
        for path in paths:
            part = model.get_submodule(path)
            found = entry.fold(part, model.progress)
            if found is None:
                return spec
            simpler, tensors = found
            for name in part.state_dict():
                del weights[f"{path}.{name}"]
            weights.update({f"{path}.{name}": tensor.detach().clone() for name, tensor in tensors.items()})
        return simpler if paths else spec

    blocks = []
    for i, block in enumerate(arch.blocks):
        here = model.part(f"blocks.{i}")._modules if f"blocks.{i}" in model.part_names else {}
        blocks.append(
            replace(block, norm=folded(block.norm, [f"blocks.{i}.{n}" for n in here if "_norm_" in n]))
        )
    final_norm = folded(arch.final_norm, ["final_norm"])
    simpler = replace(arch, blocks=tuple(blocks), final_norm=final_norm)
    return (
        model
        if simpler == arch
        else Model.from_weights(simpler, weights, model.progress).train(model.training)
    )
