"""Settings of all tests: one thread, a temporary data folder, fixed random seeds, and slow tests first."""

import os

# Environment variables, since torch reads them on import and some tests never import it.
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
    """Run slow tests first, so that no worker waits for one at the end, and the fast contract tests last."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, bool, float]:
    is_short = item.path.is_relative_to(CONTRACTS)
    allowed = item.get_closest_marker("timeout")
    return is_short, item.get_closest_marker("slow") is None, -float(allowed.args[0]) if allowed else 0.0


@pytest.fixture(scope="session", autouse=True)
def nas_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set NAS_HOME to a temporary folder, also for processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_HOME", str(tmp_path_factory.mktemp("nas_home")))
        yield


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seed the global random generators with 0 before every test."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
