"""The choice of "auto" between kernel and torch, from tables of measured times by operation and shape.

`make gpu` measures them, one file for a kind of device, tables/<device>.json beside this module:

    {"device": "NVIDIA H200", "software": "...", "rows": [{"operation": "rms_norm", "phase": "train",
     "dtype": "bfloat16", "rows": 16384, "width": 1024, "ratio": 1.4}, ...]}

`ratio` is torch's time over the kernel's. For a shape that was not measured the nearest row of the table with its
operation, phase and dtype decides, if rows differ by a factor of at most ROWS and width of at most WIDTH; else torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TABLES = Path(__file__).parent / "tables"
ROWS, WIDTH = 8, 2
MARGIN = 1.02  # up to this ratio the two count as equally fast, and torch is used


@dataclass(frozen=True)
class Asked:
    """An operation on a tensor with a last axis of `width` and `rows` elements in the other axes together."""

    operation: str
    phase: str
    dtype: str
    rows: int
    width: int

    @classmethod
    def of(cls, operation: str, tensor: Tensor) -> Asked:
        """The operation on `tensor` [..., width]; its phase is "train" if a gradient will be taken, else "forward"."""
        width = tensor.shape[-1]
        phase = "train" if torch.is_grad_enabled() and tensor.requires_grad else "forward"
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(operation, phase, dtype, tensor.numel() // max(1, width), width)

    def distance(self, other: Asked) -> float:
        """Distance in octaves of rows and width; infinite for another operation, phase or dtype, or past the limits."""
        if (self.operation, self.phase, self.dtype) != (other.operation, other.phase, other.dtype):
            return math.inf
        if not (self.rows and self.width):
            return math.inf
        rows, width = abs(math.log2(self.rows / other.rows)), abs(math.log2(self.width / other.width))
        return rows + width if rows <= math.log2(ROWS) and width <= math.log2(WIDTH) else math.inf


@dataclass(frozen=True)
class Row:
    asked: Asked
    ratio: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.asked), "ratio": self.ratio}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        return cls(Asked(**{n: v for n, v in data.items() if n != "ratio"}), float(data["ratio"]))


def file_name(device: str) -> str:
    """The file name of a device's table, from the device's name."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


def is_faster(asked: Asked, device: torch.device) -> bool:
    """Whether the kernel was faster by the device's table."""
    return prefers_kernel(asked, _table(torch.cuda.get_device_name(device)))


def prefers_kernel(asked: Asked, rows: Sequence[Row]) -> bool:
    """Whether the kernel was faster in the nearest row; False if no row is near enough."""
    nearest = min(rows, key=lambda row: asked.distance(row.asked), default=None)
    return nearest is not None and asked.distance(nearest.asked) < math.inf and nearest.ratio > MARGIN


def why_torch(device_name: str) -> str | None:
    """Why "auto" uses torch for every operation on this device; None if there is a table for it."""
    if _table(device_name):
        return None
    return f"no table of measured kernels for {device_name} (`make gpu` makes one), so that auto takes torch"


def why_torch_here() -> str | None:
    return why_torch(torch.cuda.get_device_name())


@lru_cache
def _table(device_name: str) -> tuple[Row, ...]:
    path = TABLES / file_name(device_name)
    if not path.is_file():
        return ()
    return tuple(Row.from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"])
