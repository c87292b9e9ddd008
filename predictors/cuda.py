"""What a measurement on a CUDA device depends on beside torch: driver, CUDA, Triton, kernels, and its clocks now."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from searchspace.kernels import choice

CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")
REASONS = "clocks_event_reasons.active"
SECONDS = 10.0  # for nvidia-smi


@cache
def software(kernels: str) -> str:
    """What to add to the software's names on a machine with a CUDA device: `, CUDA 13.0, driver ...`; else nothing.

    `kernels` is what operations run by (searchspace.kernels.dispatch), named where it is not torch.
    """
    if not torch.cuda.is_available():
        return ""
    parts = [f"CUDA {torch.version.cuda}"]
    driver = _ask("driver_version")
    if driver:
        parts.append(f"driver {driver}")
    with suppress(PackageNotFoundError):
        parts.append(f"triton {version('triton')}")
    if kernels != "torch":
        reason = choice.why_torch_here() if kernels == "auto" else None
        parts.append(f"kernels {kernels}" + (f" ({reason})" if reason else ""))
    return "".join(f", {part}" for part in parts)


def clocks() -> dict[str, str]:
    """Clocks, power and temperature of the current device as nvidia-smi states them, and why it is slowed, if it is."""
    return {name: found for name in (*CLOCKS, REASONS) if (found := _ask(name))}


def _ask(name: str) -> str:
    """Empty where nvidia-smi is not there or does not know it."""
    command = ["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader", f"--id={_uuid()}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _uuid() -> str:
    """nvidia-smi numbers devices by itself, whatever CUDA_VISIBLE_DEVICES says."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
