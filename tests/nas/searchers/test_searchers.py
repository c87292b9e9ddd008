"""Searchers propose new, valid architectures, the same ones again from the same results, and better than chance."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from nas.errors import UsageError
from nas.searchers.base import Problem, Searcher, Told, told_from
from nas.searchers.registry import SEARCHERS, make_searcher
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies.records import Objective, Trial
from tests.nas.engine import toy

REFERENCE = (4.0, 300.0)


def accept(arch: ArchSpec) -> None:
    return None


def only_narrow(arch: ArchSpec) -> str | None:
    return "wider than 32" if arch.d_model > 32 else None


def make(
    name: str, seed: int = 0, num_blocks: int = 4, why_invalid: Callable[[ArchSpec], str | None] = accept
) -> Searcher:
    return make_searcher(name, Problem(Encoding(toy.space(num_blocks)), 2, seed, why_invalid))


def result(searcher: Searcher, number: int, arch: ArchSpec) -> Told:
    values = toy.judge(arch)
    losses = np.array([values["loss"], values["cost"]])
    return Told(number, searcher.encoding.encode(arch), losses, 0.0, "complete")


def explore(searcher: Searcher, num_trials: int, lag: int = 8) -> list[ArchSpec]:
    archs: list[ArchSpec] = []
    for n in range(num_trials):
        if n > lag:
            searcher.tell(result(searcher, n - lag - 1, archs[n - lag - 1]))
        archs.append(searcher.ask(n).arch)
    return archs


def hypervolume(archs: list[ArchSpec]) -> float:
    """The area that two losses to be minimized dominate within the reference point: a sum of strips."""
    area, best = 0.0, REFERENCE[1]
    for values in sorted((toy.judge(a) for a in archs), key=lambda v: v["loss"]):
        if values["cost"] < best and values["loss"] < REFERENCE[0]:
            area += (REFERENCE[0] - values["loss"]) * (best - values["cost"])
            best = values["cost"]
    return area


@pytest.mark.parametrize("name", SEARCHERS)
def test_proposals_are_new_valid_and_a_function_of_seed_and_results(name: str) -> None:
    archs = explore(make(name, seed=3, why_invalid=only_narrow), 40)
    assert len({a.id for a in archs}) == 40
    assert {a.d_model for a in archs} == {32}
    assert explore(make(name, seed=3, why_invalid=only_narrow), 40) == archs
    assert explore(make(name, seed=4, why_invalid=only_narrow), 40) != archs


@pytest.mark.parametrize("name", SEARCHERS)
def test_asking_leaves_nothing_behind_but_the_architecture_proposed(name: str) -> None:
    """What lets a resume register and tell without asking again."""
    asked, replayed = make(name), make(name)
    archs = explore(asked, 60)
    for n, arch in enumerate(archs):
        if n > 8:
            replayed.tell(result(replayed, n - 9, archs[n - 9]))
        replayed.register(arch.id)
    assert replayed.state() == asked.state()
    told = result(asked, 51, archs[51])
    asked.tell(told)
    replayed.tell(told)
    assert replayed.ask(60) == asked.ask(60)


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_failed_trials_are_not_learnt_from_and_infeasible_ones_only_by_their_violation(name: str) -> None:
    """Only the least wide networks are inside the bound, and some fail: proposals gather where none of that is."""
    searcher = make(name, seed=1)
    archs: list[ArchSpec] = []
    for n in range(90):
        if n > 0:
            arch, told = archs[-1], result(searcher, n - 1, archs[-1])
            if arch.blocks[0].mixer.op == "convolution":
                told = Told(told.number, told.genome, np.full(2, np.nan), 0.0, "failed")
            elif arch.d_model > 64:
                violation = arch.d_model / 64 - 1
                told = Told(told.number, told.genome, np.array([np.nan, 0.0]), violation, "infeasible")
            searcher.tell(told)
        archs.append(searcher.ask(n).arch)
    widths = [a.d_model for a in archs[45:]]
    assert sum(w <= 64 for w in widths) > 0.75 * len(widths)


def test_violations_are_summed_as_ratios_of_their_bounds_and_losses_are_minimized() -> None:
    objectives = (Objective("accuracy", direction="maximize", lower=0.5), Objective("bytes", upper=1e6))
    arch = Encoding(toy.space()).decode((0,) * len(Encoding(toy.space())))
    values = {"accuracy": 0.4, "bytes": 1.2e6}
    trial = Trial(3, arch.to_json(), arch.id, "infeasible", values, {"accuracy": 0.1, "bytes": 2e5})
    told = told_from(trial, objectives, Encoding(toy.space()))
    assert told.losses.tolist() == [-0.4, 1.2e6]
    assert told.violation == pytest.approx(0.1 / 0.5 + 2e5 / 1e6)


def test_parents_are_trials_that_were_told() -> None:
    searcher = make("nsga2")
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


@pytest.mark.parametrize("name", ["nsga2", pytest.param("tpe", marks=pytest.mark.slow)])
def test_learning_beats_chance(name: str) -> None:
    def typical(searcher: str) -> float:
        seeds = range(5)
        return median(hypervolume(explore(make(searcher, s, num_blocks=8), 200, lag=16)) for s in seeds)

    assert typical(name) > typical("random")


def test_a_space_without_a_valid_architecture_says_why() -> None:
    with pytest.raises(
        UsageError, match="space toy holds no valid architecture that could be found: too big"
    ):
        make("random", why_invalid=lambda arch: "too big").ask(0)


def test_an_unknown_searcher_is_refused_with_the_known_names() -> None:
    with pytest.raises(UsageError, match="unknown searcher 'magic'; known: random, tpe, nsga2"):
        make("magic")
