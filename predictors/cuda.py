"""The software besides torch that a measurement on a CUDA device depends on: driver, CUDA, Triton and kernels."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from searchspace.kernels import choice

SECONDS = 10.0  # timeout of nvidia-smi


@cache
def software(kernels: str) -> str:
    """Return the CUDA part of a software description, such as `, CUDA 13.0, driver ...`; "" without a CUDA device.

    `kernels` is the selected implementation (searchspace.kernels.dispatch); it is named unless it is torch.
    """
    if not torch.cuda.is_available():
        return ""
    parts = [f"CUDA {torch.version.cuda}"]
    driver = ask("driver_version")
    if driver:
        parts.append(f"driver {driver}")
    with suppress(PackageNotFoundError):
        parts.append(f"triton {version('triton')}")
    if kernels != "torch":
        reason = choice.why_torch_here() if kernels == "auto" else None
        parts.append(f"kernels {kernels}" + (f" ({reason})" if reason else ""))
    return "".join(f", {part}" for part in parts)


def ask(name: str) -> str:
    """Return what nvidia-smi reports for the field `name` of the current device; "" where it fails or is missing."""
    command = ["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader", f"--id={_uuid()}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _uuid() -> str:
    """The current device by UUID, because nvidia-smi's numbering ignores CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
