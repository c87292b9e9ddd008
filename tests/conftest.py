"""What holds for every test: one thread, its own data folder, the same random numbers each time, long ones first."""

import os

# Read when torch is first imported, which the tests that do without it never do.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

CONTRACTS = Path(__file__).parent / "contracts"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no processor waits at the end for one; the many of contracts take milliseconds."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, bool, float]:
    is_short = item.path.is_relative_to(CONTRACTS)
    allowed = item.get_closest_marker("timeout")
    return is_short, item.get_closest_marker("slow") is None, -float(allowed.args[0]) if allowed else 0.0


@pytest.fixture(scope="session", autouse=True)
def nas_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """NAS_HOME is a temporary folder, also for the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_HOME", str(tmp_path_factory.mktemp("nas_home")))
        yield


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Global generators start at 0 in every test."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
