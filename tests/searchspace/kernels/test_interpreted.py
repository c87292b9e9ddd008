"""Every kernel, run by Triton's interpreter, errs at most twice as much as the same formula in torch.

Slow checks that differ in the data type alone take the types by turns; `make gpu` runs all of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.util import find_spec

import pytest

from tests.searchspace.kernels.harness import Check, checks
from tests.searchspace.kernels.worker import Ask

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def slow() -> list[Check]:
    """One of those whose names differ in the type alone."""
    alike = defaultdict[str, list[Check]](list)
    for check in checks().values():
        if check.size == "slow":
            alike[re.sub(r"float32|bfloat16|float16", "", check.name)].append(check)
    return [found[turn % len(found)] for turn, found in enumerate(alike.values())]


QUICK = [check.name for check in checks().values() if check.size == "quick"]
SLOW = [pytest.param(check.name, marks=pytest.mark.slow) for check in slow()]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_kernel_is_as_accurate_as_torch(name: str, interpreter: Ask):
    error = interpreter(f"check cpu {name}")
    assert error is None, error
