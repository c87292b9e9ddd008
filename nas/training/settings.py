"""Training settings: with an architecture or a space, and a task, they determine the trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from nas.errors import UsageError
from searchspace.spec.reading import LARGEST, real, unknown, whole

PRECISIONS = ("float32", "bfloat16")
MOST = 1_000_000_000  # steps, examples per batch
SAMPLINGS = ("sandwich", "granularity")


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings for training one network alone. The defaults are those of the space tiny-lm.

    `precision` is that of matrix products (torch autocast); weights and moments are always float32.
    Raises UsageError naming a setting with an invalid value.
    """

    steps: int = 700
    batch_size: int = 16
    learning_rate: float = 6e-3
    min_learning_rate_ratio: float = 0.05
    warmup_steps: int = 50
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lower in (("steps", 1), ("batch_size", 1), ("warmup_steps", 0)):
            self._check(name, whole, lower, MOST)
        self._check("seed", whole, 0, LARGEST - MOST)  # further seeds are counted up from it
        for name in ("learning_rate", "grad_clip"):
            self._check(name, real, above=0)
        self._check("weight_decay", real, 0)
        self._check("min_learning_rate_ratio", real, 0, 1)
        self._check_word("precision", PRECISIONS)

    def _check(self, name: str, check: Callable[..., float], *ends: float, **more: float) -> None:
        try:
            check(f"training setting {name}", getattr(self, name), *ends, **more)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _check_word(self, name: str, known: Sequence[str]) -> None:
        if getattr(self, name) not in known:
            raise UsageError(f"training setting {name}: {unknown(str(getattr(self, name)), known)}")

    def with_seed(self, seed: int) -> Self:
        return replace(self, seed=seed)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Settings from JSON, with defaults for missing ones. Raises UsageError for an unknown or invalid setting."""
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise UsageError(unknown(name, known, "training setting"))
        return cls(**data)


@dataclass(frozen=True)
class TrainingSettings(OptimizerSettings):
    """Settings for training a supernet.

    `sampling` names the rule for the networks of a step (`nas.training.sampling`) and `num_random` is its number of
    random networks. `soft_target_weight` is the weight of the teacher's outputs in the loss of the other networks, once
    soft targets are used; the rest is hard labels. To save memory, a batch is computed in `accumulation` parts, which
    `processes` processes share. `checkpoint_seconds` bounds the work that a kill loses and does not affect weights.
    """

    sampling: str = "sandwich"
    num_random: int = 2
    soft_target_weight: float = 0.5
    accumulation: int = 1
    processes: int = 1
    checkpoint_seconds: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_word("sampling", SAMPLINGS)
        self._check("num_random", whole, 0, MOST)
        self._check("checkpoint_seconds", real, 0)
        self._check("soft_target_weight", real, 0, 1)
        self._check("accumulation", whole, 1, self.batch_size)
        self._check("processes", whole, 1, self.accumulation)
