"""Selects the settings that `make test` runs, and names the contract tests."""

from collections.abc import Iterator, Sequence

import pytest

from searchspace.contracts.cases import Case
from searchspace.contracts.contract import Contract, exactly
from searchspace.primitives import caches
from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator

QUICK_SETTINGS = 2  # settings of an operator in `make test`; `make test-all` runs all


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
        if isinstance(case, Case) and case.rank >= QUICK_SETTINGS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def buffers_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store even a few tokens in cache buffers, as long sequences are, so that tests cover them."""
    monkeypatch.setattr(caches, "SMALL", 0)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    """Run every contract in float64."""
    with exactly():
        yield


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    if isinstance(val, Contract):
        return val.name
    if isinstance(val, Case):
        return str(val)
    if isinstance(val, Operator):
        return f"{val.slot}-{val.name}"
    if isinstance(val, BuildContext):
        return "causal" if val.causal else "bidirectional"
    return None
