"""How networks are trained: everything that decides their weights, given an architecture or a space, and a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from nas.errors import UsageError
from searchspace.spec.reading import LARGEST, real, unknown, whole

PRECISIONS = ("float32", "bfloat16")
MOST = 1_000_000_000  # steps, examples of a batch
SAMPLINGS = ("sandwich", "granularity")


@dataclass(frozen=True)
class OptimizerSettings:
    """How one network is trained by itself. The defaults are those of the space tiny-lm.

    `precision` is that of the matrix products (torch autocast); weights and moments are float32 always.
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
        self._check("seed", whole, 0, LARGEST - MOST)  # further ones count on from it
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
        """Settings that are not named take their defaults. Raises UsageError for a name that is no setting."""
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise UsageError(unknown(name, known, "training setting"))
        return cls(**data)


@dataclass(frozen=True)
class TrainingSettings(OptimizerSettings):
    """How a supernet is trained.

    `sampling` names the rule that chooses the networks of a step (nas/training/sampling.py), `num_random` how many
    join the largest and the smallest. `soft_target_weight` is the share of the largest network's outputs in the loss of
    the others once they are used; the rest is hard labels. The batch of a step is computed in `accumulation` parts, one
    after the other, which saves memory, on `processes` processes. `checkpoint_seconds` bounds what a kill loses and
    changes no weights.
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
