"""Cases in which a kernel is compiled for a device that need not be present; the tests compile every case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One compilation of a kernel: types of its arguments ("*bf16", "*fp32", "i32", "fp32") and its constants.

    `max_spill_bytes`: bytes per thread that may spill from registers."""

    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    max_spill_bytes: int = 0
    label: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.kernel.__name__, self.label)))
