"""What can't be built or breaks a cheap bound is never proposed, and few draws are spent on it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from nas.errors import UsageError
from nas.searchers.base import Observation
from nas.searchers.ranking import positions
from nas.searchers.registry import make_searcher
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from tests.nas.engine import toy
from tests.nas.searchers.explore import HERE, explore, make, result

SHARE = 0.05  # of random architectures that keep the bound


def size(arch: ArchSpec) -> float:
    """Distinct for nearly all architectures, so that a share of them lies below a quantile."""
    return toy.judge(arch)["cost"] + int(arch.id[:8], 16) / 2**34


@lru_cache
def bound(share: float) -> float:
    """Only the largest architectures are at least so big: they have many decisions, so random ones seldom repeat."""
    encoding = Encoding(toy.space(8))
    draws = encoding.random(2000, np.random.default_rng(1))
    return float(np.quantile([size(encoding.decode(tuple(g))) for g in draws.tolist()], 1 - share))


def checks_per_proposal(name: str, share: float, num_trials: int = 100) -> float:
    limit, checked = bound(share), 0

    def why_invalid(arch: ArchSpec) -> str | None:
        nonlocal checked
        checked += 1
        return "too small" if size(arch) < limit else None

    archs = explore(make(name, num_blocks=8, why_invalid=why_invalid), num_trials)
    assert min(map(size, archs)) >= limit
    return checked / num_trials


def test_random_search_of_a_space_that_a_bound_empties_checks_fewer_than_rejection_would() -> None:
    """Rejection alone checks 1 / share for each proposal."""
    assert checks_per_proposal("random", SHARE) < 1 / SHARE
    assert checks_per_proposal("random", SHARE / 10) < 0.5 / (SHARE / 10)


@pytest.mark.parametrize("name", ["nsga2", "evolution", "local", "generative"])
def test_searchers_that_vary_what_is_valid_seldom_leave_the_bound(name: str) -> None:
    assert checks_per_proposal(name, SHARE) < 0.4 / SHARE


def test_a_space_without_a_valid_architecture_says_why() -> None:
    with pytest.raises(UsageError, match=r"space toy: no valid architecture could be found.*: too big"):
        make("random", why_invalid=lambda arch: "too big").ask(0)


def told(number: int, losses: list[float], violation: float = 0.0) -> Observation:
    return Observation(number, (), np.array(losses), violation, "infeasible" if violation else "complete")


def test_feasible_results_come_first_then_fronts_then_the_less_crowded() -> None:
    results = [
        told(0, [np.nan, 0.0], violation=0.5),
        told(1, [0.0, 4.0]),  # an end of the first front
        told(2, [1.0, 1.0]),  # between 1 and 4, the only one with room
        told(3, [2.0, 2.0]),  # behind 2
        told(4, [4.0, 0.0]),  # the other end
        told(5, [np.nan, np.nan], violation=0.1),
    ]
    places = positions(results, np.random.default_rng(0))
    assert set(places[[1, 4]]) == {0, 1}
    assert places[[2, 3, 5, 0]].tolist() == [2, 3, 4, 5]


def test_neighbours_differ_in_one_decision_and_in_what_hangs_on_it() -> None:
    """Checked against an enumeration: as many as there are other values of decisions in use."""
    searcher = make("local")
    member = result(searcher, 5, explore(searcher, 6)[5])
    found = searcher.neighbours(member)  # type: ignore[attr-defined]
    genome = np.array(member.genome)
    used = searcher.encoding.in_use(genome[None])[0]
    assert len(np.unique(found, axis=0)) == len(found) == (searcher.encoding.num_values[used] - 1).sum()
    both = used & searcher.encoding.in_use(found)
    assert ((found != genome) & both).sum(axis=1).tolist() == [1] * len(found)
    assert (searcher.neighbours(member) == found).all()  # type: ignore[attr-defined]


def test_shrinking_freezes_decisions_without_effect_and_keeps_those_with_one() -> None:
    """Losses depend on the width alone: placement, kinds and their items say nothing."""
    searcher = make("shrink", seed=2)
    for n in range(130):
        arch = searcher.ask(n).arch
        losses = np.array([float(arch.d_model), -float(arch.d_model)])
        searcher.tell(Observation(n, searcher.encoding.encode(arch), losses, 0.0, "complete"))
    frozen = searcher.state()["frozen"]  # type: ignore[index]
    assert "d_model" not in frozen
    assert len(frozen) > len(searcher.encoding) / 2


@pytest.mark.parametrize("name", HERE)
def test_every_searcher_begins_with_the_networks_that_the_problem_names(name: str) -> None:
    problem = make(name).problem
    drawn = problem.encoding.random(6, np.random.default_rng(5)).tolist()
    archs = list({a.id: a for a in (problem.encoding.decode(tuple(g)) for g in drawn)}.values())
    first = tuple(map(problem.encoding.encode, archs))
    assert explore(make_searcher(name, replace(problem, first=first)), len(first)) == archs
