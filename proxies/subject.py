"""What the proxies of one architecture share: the network, built once from the seed, and work done on it once."""

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
    """A proxy has no value here; the message is the reason that its score carries."""


class Subject:
    """An untrained network under the proxies, in native numbers; `seed` alone decides its weights."""

    def __init__(self, arch: ArchSpec, batch: Batch | None, seed: int) -> None:
        self.arch, self.batch, self.seed = arch.unquantized, batch, seed
        self._results: dict[object, object] = {}

    @cached_property
    def model(self) -> Model:
        """Built on the CPU, so that the weights do not depend on the device; then moved to the batch's device."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            model = Model(self.arch)
        return model if self.batch is None else model.to(self.batch.inputs.device)

    def once(self, compute: Callable[[Subject], T]) -> T:
        """`compute(self)`, remembered by function: proxies that name the same one share its forward and backward."""
        if compute not in self._results:
            self._results[compute] = compute(self)
        return cast(T, self._results[compute])


def finite_model(subject: Subject) -> Model:
    """The network. Raises Unscorable naming a weight that holds NaN or infinity."""
    for name, weight in subject.model.named_parameters():
        if not weight.isfinite().all():
            raise Unscorable(f"{name} holds values that are not finite")
    return subject.model
