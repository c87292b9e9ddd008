"""Every kernel, run by Triton's interpreter, errs at most twice as much as the same formula in torch."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.searchspace.kernels.harness import checks
from tests.searchspace.kernels.worker import Ask

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

CHECKS = [
    pytest.param(check.name, marks=[pytest.mark.slow] if check.size == "slow" else [])
    for check in checks().values()
    if check.size != "gpu"
]


@pytest.mark.parametrize("name", CHECKS)
def test_kernel_is_as_accurate_as_torch(name: str, interpreter: Ask):
    error = interpreter(f"check cpu {name}")
    assert error is None, error
