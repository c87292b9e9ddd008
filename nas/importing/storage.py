"""Write a safetensors file tensor by tensor, so that a model need not fit into memory twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import file_digest, sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from nas.importing.weights import Part

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, parts: Mapping[str, Part], metadata: Mapping[str, str] | None = None) -> str:
    """Write the tensors to `path`, loading one at a time. Returns the file's SHA-256 in hexadecimal digits.

    Layout of the package safetensors: header length in 8 bytes, JSON header, then the data, wider dtypes first."""
    ordered = sorted(parts, key=lambda name: (-parts[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name in ordered:
        part, start = parts[name], end
        end += prod(part.shape) * part.dtype.itemsize
        header[name] = {"dtype": DTYPES[part.dtype], "shape": part.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = sha256()
    with path.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            digest.update(piece)
            file.write(piece)
        for name in ordered:
            _write(file, digest, parts[name])
    return digest.hexdigest()


def _write(file: BinaryIO, digest: Any, part: Part) -> None:
    """Separate from the loop so that the tensor is freed before the next one is loaded."""
    tensor = part.load()
    assert (tuple(tensor.shape), tensor.dtype) == (part.shape, part.dtype)
    content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    digest.update(content)
    file.write(content)


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
