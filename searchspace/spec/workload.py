"""What a network does when it is costed or timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from searchspace.spec.reading import unknown, whole

PHASES = ("forward", "prefill", "decode", "train")
DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
MOST = 1_000_000_000  # largest number of tokens or sequences


@dataclass(frozen=True)
class Workload:
    """One call: `batch_size` sequences of `seq_len` tokens; in `decode`, one token after `context_len` others.

    Raises ValueError for an unknown phase or dtype, or a size out of range.
    """

    phase: str = "forward"
    batch_size: int = 1
    seq_len: int = 64
    context_len: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, known in (("phase", PHASES), ("dtype", DTYPE_BYTES)):
            if getattr(self, name) not in known:
                raise ValueError(unknown(str(getattr(self, name)), known, name))
        for name, least in (("batch_size", 1), ("seq_len", 1), ("context_len", 0)):
            whole(f"workload {name}", getattr(self, name), least, MOST)

    @property
    def num_queries(self) -> int:
        """Tokens computed per sequence."""
        return 1 if self.phase == "decode" else self.seq_len

    @property
    def num_keys(self) -> int:
        """Tokens that a query may see, including itself."""
        return self.context_len + self.num_queries

    @property
    def bytes_per_value(self) -> int:
        return DTYPE_BYTES[self.dtype]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Workload:
        """Read `to_json`. Raises ValueError for unknown names and for invalid values."""
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise ValueError(unknown(name, known, "key of a workload"))
        return cls(**data)

    def __str__(self) -> str:
        return f"{self.phase},b={self.batch_size},t={self.seq_len},ctx={self.context_len},{self.dtype}"
