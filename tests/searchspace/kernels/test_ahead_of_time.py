"""Every kernel compiles for compute capability 8.0 and 9.0, within the registers and shared memory of the device.

The first case of each for both, the others for the two by turns. And every launch of the checks, for 9.0; those of the
built-in spaces too, and for other devices, where NAS_TEST_CAPABILITIES names them:
NAS_TEST_CAPABILITIES=89,90,100,120 pytest -m slow -s -k launch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from searchspace.kernels.dispatch import KERNELS
from tests.searchspace.kernels.worker import ROOT, Ask

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

CAPABILITIES = "NAS_TEST_CAPABILITIES"
REGISTERS = 255
SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # of a block, 1 KiB being the system's
MODULES = sorted({place.split(":")[0] for place in KERNELS.values()})
SIZES = [
    pytest.param(capability, size, marks=[] if (capability, size) == (90, "quick") else [pytest.mark.slow])
    for capability in (80, 90)
    for size in ("quick", "others")
]


def capabilities() -> list[int]:
    return [int(c) for c in os.environ.get(CAPABILITIES, "90").split(",")]


def launched_modules() -> list[Any]:
    """Those with checks, and the built-in spaces."""
    folder = ROOT / "tests" / "searchspace" / "kernels"
    reason = f"compiling what the spaces launch takes a quarter of an hour; {CAPABILITIES}=90 does it"
    spaces = pytest.param("spaces", marks=pytest.mark.skipif(CAPABILITIES not in os.environ, reason=reason))
    return [*sorted(path.stem.removeprefix("checks_") for path in folder.glob("checks_*.py")), spaces]


@pytest.mark.timeout(900)  # compiling a large kernel on a busy core takes tens of seconds
@pytest.mark.parametrize(("capability", "size"), SIZES)
@pytest.mark.parametrize("module", MODULES)
def test_kernels_compile_within_the_limits(module: str, capability: int, size: str, compiler: Ask):
    error = compiler(f"compile {module} {capability} {size}")
    assert error is None, error


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("capability", capabilities())
@pytest.mark.parametrize("module", launched_modules())
def test_every_launch_of_the_checks_and_spaces_compiles_and_fits(module: str, capability: int):
    """From real arguments, whose alignment and strides a compilation depends on; with -s the table is printed."""
    command = [sys.executable, "-m", "tests.searchspace.kernels.launches", str(capability), module]
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    for launch in found:
        print(*launch.values(), sep="\t")
        assert launch["registers"] <= REGISTERS, launch
        assert launch["shared_bytes"] <= SHARED_KIB[capability] * 1024, launch
