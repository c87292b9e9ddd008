"""What is special to the algorithms from pymoo."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from nas.errors import UsageError
from nas.searchers import pymoo_searcher
from nas.searchers.pymoo_searcher import ALGORITHMS
from tests.nas.searchers.explore import HERE, explore, make, result


@pytest.mark.parametrize("name", [n for n in HERE if n in ALGORITHMS])
def test_parents_are_trials_that_were_told(name: str) -> None:
    searcher = make(name)
    explore(searcher, 64, lag=0)
    proposals = [searcher.ask(n) for n in range(64, 80)]
    parents = {p for proposal in proposals for p in proposal.parents}
    assert parents
    assert parents <= set(searcher.state()["population"])  # type: ignore[index]


def test_the_first_population_covers_depths_and_widths_evenly() -> None:
    archs = explore(make("nsga2", seed=5, num_blocks=8), 32)
    depths = [sum(b.is_active for b in a.blocks) for a in archs]
    assert [depths.count(d) for d in range(1, 9)] == [4] * 8
    assert [[a.d_model for a in archs].count(w) for w in (32, 64, 96, 128)] == [8] * 4


@pytest.mark.parametrize("name", [n for n in HERE if n in ALGORITHMS and ALGORITHMS[n].batch > 1])
def test_results_enter_the_population_a_generation_at_a_time(name: str) -> None:
    searcher, sizes = make(name), []
    for n in range(2 * ALGORITHMS[name].batch + 1):
        searcher.tell(result(searcher, n, searcher.ask(n).arch))
        sizes.append(searcher.state()["population"])  # type: ignore[index]
    batch = ALGORITHMS[name].batch
    assert sizes[: batch - 1] == [[]] * (batch - 1)
    assert sizes[batch - 1] == sizes[2 * batch - 2] != sizes[2 * batch - 1]


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4, 6])
def test_reference_directions_are_spread_over_the_simplex_and_fit_into_a_population(
    num_objectives: int,
) -> None:
    directions = pymoo_searcher._directions(num_objectives, 32)
    assert len(np.unique(directions, axis=0)) == len(directions) <= 32
    assert directions.sum(axis=1) == pytest.approx(1.0)
    assert directions.min() >= 0


@pytest.mark.skipif(find_spec("numba") is not None, reason="numba is installed")
def test_age2_without_numba_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="age2 needs numba, which is not installed: pip install numba"):
        make("age2")
