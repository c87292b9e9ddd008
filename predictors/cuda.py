"""What a measurement on a CUDA device depends on beside torch: driver, CUDA, Triton and kernels."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from searchspace.kernels import choice

SECONDS = 10.0  # for nvidia-smi


@cache
def software(kernels: str) -> str:
    """What to add to the software's names on a machine with a CUDA device: `, CUDA 13.0, driver ...`; else nothing.

    `kernels` is what operations run by (searchspace.kernels.dispatch), named where it is not torch.
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
    """What nvidia-smi states of the current device under that name; empty where it is not there or does not know it."""
    command = ["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader", f"--id={_uuid()}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _uuid() -> str:
    """nvidia-smi numbers devices by itself, whatever CUDA_VISIBLE_DEVICES says."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
