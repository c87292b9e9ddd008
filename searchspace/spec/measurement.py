"""A number with its provenance: the project never returns a bare latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from searchspace.spec.workload import Workload


@dataclass(frozen=True)
class Measurement:
    """One measured quantity of an architecture or operator.

    A time is stated at a nominal speed of the device: the ratio to a reference network timed in alternation with the
    subject, times `reference`, that network's latency in the profile. This makes runs at different clock speeds
    comparable; `method` records the reference's time in this run. `p10` and `p90` are percentiles of `value`.
    """

    subject: str
    quantity: str
    value: float
    unit: str
    workload: Workload
    device: str
    implementation: str
    method: str
    software: str
    measured_at: str
    p10: float | None = None
    p90: float | None = None
    samples: int = 1
    reference: float | None = None
    seed: int | None = None

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the reference network's, where one was timed."""
        return self.value / self.reference if self.reference else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        return cls(**{**data, "workload": Workload.from_json(data["workload"])})
