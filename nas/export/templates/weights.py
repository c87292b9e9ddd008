"""Reads a safetensors file with torch only.

The format: 8 bytes little-endian length of a JSON header, the header {name: {dtype, shape, data_offsets}}, the data.
The header's __metadata__ may hold the SHA-256 of tensors by name, which is checked.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load(path: Path) -> dict[str, torch.Tensor]:
    """{name: tensor `[...]`} of a safetensors file. Raises ValueError naming the tensor if the file is damaged."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if len(data) < 8:
        raise ValueError(f"{path} is not a safetensors file: {len(data)} bytes")
    (length,) = struct.unpack("<Q", data[:8])
    if 8 + length > len(data):
        raise ValueError(f"{path} is cut off: its header wants {length} bytes")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        digests = header.pop("__metadata__", {})
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{path} is damaged: its header is no JSON object") from None
    return {n: _tensor(path, n, entry, data, 8 + length, digests.get(n)) for n, entry in header.items()}


def _tensor(
    path: Path, name: str, entry: Any, data: bytearray, start: int, digest: str | None
) -> torch.Tensor:
    try:
        dtype, shape = DTYPES[entry["dtype"]], [int(size) for size in entry["shape"]]
        begin, end = (start + int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: tensor {name} is described as {entry}") from None
    if end > len(data):
        raise ValueError(f"{path} is cut off: tensor {name} ends at byte {end} of {len(data)}")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or begin < start or end - begin != count * dtype.itemsize:
        raise ValueError(
            f"{path} is damaged: tensor {name} of shape {shape} and type {entry['dtype']} has {end - begin} bytes"
        )
    if digest not in (None, hashlib.sha256(memoryview(data)[begin:end]).hexdigest()):
        raise ValueError(f"{path} is damaged: tensor {name} of shape {shape} does not hold what was written")
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=begin).reshape(shape).clone()


def fitting(tensors: dict[str, torch.Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """The `tensors`, `[...]` each. Raises ValueError naming the first whose shape is not the one in `shapes`."""
    for name in [*shapes, *tensors]:
        have = list(tensors[name].shape) if name in tensors else "nothing"
        want = list(shapes[name]) if name in shapes else "nothing"
        if have != want:
            raise ValueError(f"tensor {name}: the file holds {have}, the network in config.json wants {want}")
    return tensors
