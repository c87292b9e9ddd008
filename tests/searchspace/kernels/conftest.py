"""Processes beside pytest in which kernels are interpreted or compiled; one of each for a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.searchspace.kernels.worker import Ask, worker

HARNESS = "tests.searchspace.kernels.harness"


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Ask]:
    with worker(HARNESS, "cpu") as ask:
        yield ask


@pytest.fixture(scope="session")
def compiler() -> Iterator[Ask]:
    with worker(HARNESS, "cuda") as ask:
        yield ask
