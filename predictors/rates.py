"""Peak rates of a device, from which latency is estimated where no operator is measured. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

FLOPS_PER_SECOND = {
    "cpu": 2e10,
    "cuda": 2e13,
}  # rough rates of one process for large products, used to bound work by counting
FORM = "flops=5e10,bytes=1e10,call=4e-6"  # one core of a server processor


@dataclass(frozen=True)
class Rates:
    """Floating-point operations per second, bytes per second, and seconds per call."""

    flops: float
    bytes: float
    call: float

    @classmethod
    def of(cls, text: str) -> Rates:
        """Parse `flops=...,bytes=...,call=...`. Raises ValueError saying what is missing or wrong."""
        names, values = [f.name for f in fields(cls)], {}
        for part in text.split(","):
            name, _, number = part.strip().partition("=")
            try:
                values[name] = float(number)
            except ValueError:
                raise ValueError(f"{part.strip()!r}: write {FORM}") from None
            if name not in names or not 0 < values[name] < math.inf:
                raise ValueError(f"{part.strip()!r}: give {', '.join(names)}, each above 0, as in {FORM}")
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"{text!r} lacks {', '.join(missing)}: write {FORM}")
        return cls(**values)

    def __str__(self) -> str:
        return ",".join(f"{f.name}={getattr(self, f.name):.3g}" for f in fields(self))
