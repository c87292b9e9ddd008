"""Reads a safetensors file with torch alone.

The format: 8 bytes little-endian length of a JSON header, the header {name: {dtype, shape, data_offsets}}, the data.
"""

import json
import struct
from pathlib import Path

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load(path: Path) -> dict[str, torch.Tensor]:
    """{name: tensor} of a safetensors file. Raises ValueError where the file is damaged."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if len(data) < 8:
        raise ValueError(f"{path} is not a safetensors file: {len(data)} bytes")
    (length,) = struct.unpack("<Q", data[:8])
    if 8 + length > len(data):
        raise ValueError(f"{path} is cut off: its header wants {length} bytes")
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if end > len(data):
            raise ValueError(f"{path} is cut off: tensor {name} ends at byte {end} of {len(data)}")
        dtype = DTYPES[entry["dtype"]]
        if end == start:
            tensors[name] = torch.empty(entry["shape"], dtype=dtype)
            continue
        count = (end - start) // dtype.itemsize
        tensors[name] = (
            torch.frombuffer(data, dtype=dtype, count=count, offset=start).reshape(entry["shape"]).clone()
        )
    return tensors
