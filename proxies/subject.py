"""The network that the proxies of one architecture share, built once from the seed, with cached computations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar, cast

import torch

from proxies.batch import Batch
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec

T = TypeVar("T")


class Unscorable(Exception):
    """A proxy is undefined for this network; the message becomes the reason of its score."""


class Subject:
    """An untrained network in native precision to be scored; its weights depend only on `seed`."""

    def __init__(self, arch: ArchSpec, batch: Batch | None, seed: int) -> None:
        self.arch, self.batch, self.seed = arch.unquantized, batch, seed
        self._results: dict[object, object] = {}

    @cached_property
    def model(self) -> Model:
        """The network, initialised on the CPU so that its weights do not depend on the batch's device, then moved."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            model = Model(self.arch)
        return model if self.batch is None else model.to(self.batch.inputs.device)

    def once(self, compute: Callable[[Subject], T]) -> T:
        """Return `compute(self)`, cached by function, so that proxies share forward and backward passes."""
        if compute not in self._results:
            self._results[compute] = compute(self)
        return cast(T, self._results[compute])


def finite_model(subject: Subject) -> Model:
    """Return the network. Raises Unscorable naming a weight with NaN or infinity."""
    for name, weight in subject.model.named_parameters():
        if not weight.isfinite().all():
            raise Unscorable(f"{name} holds values that are not finite")
    return subject.model
