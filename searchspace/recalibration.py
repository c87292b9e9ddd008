"""Sets what gradients do not: batch statistics and calibrated tensors of one network.

A sub-network cut from shared weights has its own activation statistics, so these are measured again after slicing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from searchspace import registry
from searchspace.model import Model
from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import Tokens


def needs_recalibration(model: Model) -> bool:
    return any(_has_role(part, "statistic") or _has_role(part, "calibrated") for part in model.modules())


def recalibrate(model: Model, batches: Sequence[Tensor]) -> None:
    """Set calibrated tensors, then statistics, from `batches` of inputs [B, ...]; deterministic."""
    calibrate(model, batches)
    set_statistics(model, batches)


def _has_role(part: torch.nn.Module, role: str) -> bool:
    return isinstance(part, AxisModule) and any(d.role == role for d in part.declared.values())


@torch.no_grad()
def set_statistics(model: Model, batches: Sequence[Tensor]) -> None:
    """Set statistics, per run of a repeated stage, to the mean of their updates over `batches` [B, ...]."""
    if not any(_has_role(part, "statistic") for part in model.modules()):
        return
    found: dict[str, list[Tensor]] = defaultdict(list)
    was_training = model.training
    model.train()
    for inputs in batches:
        for execution, kept in model(inputs)[1].items():
            for name, update in _tensors(execution.split("@")[0], kept):
                found[name].append(update)
    model.train(was_training)
    buffers = dict(model.named_buffers())
    for name, updates in found.items():
        buffers[name].copy_(torch.stack(updates).mean(0))


def _tensors(path: str, kept: Any) -> list[tuple[str, Tensor]]:
    if isinstance(kept, Tensor):
        return [(path, kept)]
    if isinstance(kept, dict):
        return [found for name, value in kept.items() for found in _tensors(f"{path}.{name}", value)]
    return []


@torch.no_grad()
def calibrate(model: Model, batches: Sequence[Tensor]) -> None:
    """Calibrate operators front to back, each on its inputs for `batches` [B, ...]; norms use batch statistics."""
    if not any(_has_role(part, "calibrated") for part in model.modules()):
        return
    was_training = model.training
    model.train()
    for path, slot, op in _operators(model):
        entry = registry.operator(slot, op)
        if entry.calibrate is None or path not in dict(model.named_modules()):
            continue
        seen: list[tuple[Tensor, Tokens]] = []
        part = model.get_submodule(path)
        hook = part.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append((inputs[0], inputs[1]))
        )
        for inputs in batches:
            model(inputs)
        hook.remove()
        entry.calibrate(part, seen)
    model.train(was_training)


def _operators(model: Model) -> list[tuple[str, str, str]]:
    blocks = enumerate(model.arch.blocks)
    return [(f"blocks.{i}.{slot}", slot, getattr(b, slot).op) for i, b in blocks for slot in ("mixer", "ffn")]
