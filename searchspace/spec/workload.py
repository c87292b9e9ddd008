"""What a network is asked to do when it is costed or timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

PHASES = ("forward", "prefill", "decode", "train")
DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Workload:
    """One call: `batch_size` sequences of `seq_len` tokens, in `decode` one token after `context_len` others."""

    phase: str = "forward"
    batch_size: int = 1
    seq_len: int = 64
    context_len: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"unknown phase {self.phase!r}; known: {', '.join(PHASES)}")
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPE_BYTES)}")

    @property
    def num_queries(self) -> int:
        """Tokens computed per sequence."""
        return 1 if self.phase == "decode" else self.seq_len

    @property
    def num_keys(self) -> int:
        """Tokens that a query may look at, itself included."""
        return self.context_len + self.num_queries

    @property
    def bytes_per_value(self) -> int:
        return DTYPE_BYTES[self.dtype]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Workload:
        return cls(**data)

    def __str__(self) -> str:
        return f"{self.phase},b={self.batch_size},t={self.seq_len},ctx={self.context_len},{self.dtype}"
