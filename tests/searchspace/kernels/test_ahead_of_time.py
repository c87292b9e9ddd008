"""Every kernel compiles for compute capability 8.0 and 9.0, within the registers and shared memory of the device.

The first case of each for both, the others for the two by turns.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from searchspace.kernels.dispatch import KERNELS
from tests.searchspace.kernels.worker import Ask

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

MODULES = sorted({place.split(":")[0] for place in KERNELS.values()})
SIZES = [
    pytest.param(capability, size, marks=[] if (capability, size) == (90, "quick") else [pytest.mark.slow])
    for capability in (80, 90)
    for size in ("quick", "others")
]


@pytest.mark.timeout(900)  # compiling a large kernel on a busy core takes tens of seconds
@pytest.mark.parametrize(("capability", "size"), SIZES)
@pytest.mark.parametrize("module", MODULES)
def test_kernels_compile_within_the_limits(module: str, capability: int, size: str, compiler: Ask):
    error = compiler(f"compile {module} {capability} {size}")
    assert error is None, error
