"""Statistics of the inputs of a network's linear maps on calibration data, deterministic for given batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searchspace.model import Model
from searchspace.primitives.context import Tokens

CalibrationBatch = tuple[Tensor, Tokens]


@dataclass
class Seen:
    """Inputs of one linear map: their range, the largest absolute value per channel [K], the sum of x x^T [K, K]."""

    low: float
    high: float
    channels: Tensor
    gram: Tensor | None = None


def observe(
    model: Model, paths: Collection[str], batches: Sequence[CalibrationBatch], with_gram: Collection[str] = ()
) -> dict[str, Seen]:
    """Return the inputs of each of `paths` when the network runs on the batches, without padding.

    Raises ValueError, naming the map, where a value is not finite.
    """
    seen: dict[str, Seen] = {}
    valid: list[Tensor | None] = [None]

    def watch(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            x: Tensor = given[0].detach()
            mask = valid[0]
            rows = x[mask] if mask is not None and x.shape[:2] == mask.shape else x.flatten(0, -2)
            _add(seen, path, rows.float(), path in with_gram)

        return hook

    training = model.training
    with ExitStack() as after, torch.no_grad():
        after.callback(model.train, training)
        for path in paths:
            after.enter_context(model.get_submodule(path).register_forward_pre_hook(watch(path)))
        for inputs, tokens in batches:
            valid[0] = tokens.valid
            model.eval()(inputs, tokens)
    return seen


def _add(seen: dict[str, Seen], path: str, rows: Tensor, with_gram: bool) -> None:
    if not rows.isfinite().all():
        raise ValueError(f"calibration: {path} is given values that are not finite, so it can't be quantized")
    channels = rows.abs().amax(0)
    gram = rows.mT @ rows if with_gram else None
    low, high = float(rows.min()), float(rows.max())
    before = seen.get(path)
    if before is not None:
        low, high = min(low, before.low), max(high, before.high)
        channels = torch.maximum(channels, before.channels)
        gram = gram + before.gram if gram is not None and before.gram is not None else None
    seen[path] = Seen(low, high, channels, gram)
