"""Contracts hold in float64, so that a tolerance never hides a mistake; a test of precision casts down itself."""

from collections.abc import Iterator

import pytest
import torch

from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator
from tests.contracts.cases import Case


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """The cases themselves know nothing of pytest, so that a bare GPU machine runs them too."""
    if isinstance(val, Case):
        return str(val)
    if isinstance(val, Operator):
        return f"{val.slot}-{val.name}"
    if isinstance(val, BuildContext):
        return "causal" if val.causal else "bidirectional"
    return None
