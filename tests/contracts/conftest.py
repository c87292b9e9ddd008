"""Contracts hold in float64, so that a tolerance never hides a mistake; a test of precision casts down itself."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator
from tests.contracts.cases import Case

QUICK_SETTINGS = 2  # of an operator in `make test`; the others belong to `make test-all`


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
        if isinstance(case, Case) and case.rank >= QUICK_SETTINGS:
            item.add_marker(pytest.mark.slow)


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
