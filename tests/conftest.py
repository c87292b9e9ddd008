"""What holds for every test: one thread, a data folder of its own, the same random numbers each time."""

import os

# Read when torch is first imported, which the tests that do without it never do.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest


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
