"""What holds for every searcher: new, valid proposals, the same again from the same results, better than chance."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from statistics import median

import numpy as np
import pytest

from nas.errors import UsageError
from nas.searchers.base import Observation, Problem, SpaceExhausted, observation_of
from nas.searchers.registry import SEARCHERS, make_searcher
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies.records import Objective, Trial
from tests.nas.engine import toy
from tests.nas.searchers.explore import HERE, OPTUNA, cases, explore, hypervolume, make, result, trials_for


def only_narrow(arch: ArchSpec) -> str | None:
    return "wider than 32" if arch.d_model > 32 else None


@pytest.mark.parametrize("name", cases(*OPTUNA))
def test_proposals_are_new_valid_and_a_function_of_seed_and_results(name: str) -> None:
    count = trials_for(name, 40)
    archs = explore(make(name, seed=3, why_invalid=only_narrow), count)
    assert len({a.id for a in archs}) == count
    assert {a.d_model for a in archs} == {32}
    assert explore(make(name, seed=3, why_invalid=only_narrow), count) == archs
    assert explore(make(name, seed=4, why_invalid=only_narrow), count) != archs


@pytest.mark.parametrize("name", cases())
def test_asking_leaves_nothing_behind_but_the_architecture_proposed(name: str) -> None:
    """What lets a resume register and tell without asking again."""
    asked, replayed = make(name), make(name)
    count = trials_for(name, 80)
    archs = explore(asked, count)
    for n, arch in enumerate(archs):
        if n > 8:
            replayed.tell(result(replayed, n - 9, archs[n - 9]))
        replayed.register(arch.id, arch.to_json())
    assert replayed.state() == asked.state()
    told = result(asked, count - 9, archs[count - 9])
    asked.tell(told)
    replayed.tell(told)
    assert replayed.ask(count) == asked.ask(count)


@pytest.mark.parametrize("name", cases(*OPTUNA))
def test_the_state_is_json_that_says_how_much_was_told(name: str) -> None:
    searcher, count = make(name), trials_for(name, 50)
    explore(searcher, count)
    state = searcher.state()
    if state is not None:
        assert json.loads(json.dumps(state)) == state
        assert state["version"] >= 1
        assert state["num_told"] == count - 9


@pytest.mark.parametrize("num_objectives", [1, 3])
@pytest.mark.parametrize("name", cases(*OPTUNA))
def test_one_objective_and_three_are_searched_or_refused(name: str, num_objectives: int) -> None:
    if num_objectives == 1 and name in ("smsemoa", "rvea"):
        with pytest.raises(UsageError, match=f"--searcher {name} needs at least 2 objectives, got 1"):
            make(name, num_objectives=1)
    else:
        count = trials_for(name, 60)
        archs = explore(make(name, num_objectives=num_objectives), count)
        assert len({a.id for a in archs}) == count


@pytest.mark.parametrize("name", cases(*OPTUNA))
def test_a_tiny_space_is_exhausted_with_every_architecture_proposed_once(name: str) -> None:
    encoding = Encoding(toy.tiny_space())
    every = {encoding.decode(g).id for g in product(*map(range, encoding.num_values.tolist()))}
    searcher = make_searcher(name, Problem(encoding, 2, 0, lambda arch: None))
    proposed = []
    for number in range(12):
        arch = searcher.ask(number).arch
        proposed.append(arch.id)
        losses = np.array([float(arch.d_model), -float(number)])
        searcher.tell(Observation(number, encoding.encode(arch), losses, 0.0, "complete"))
    assert set(proposed) == every
    assert len(proposed) == len(every)
    with pytest.raises(SpaceExhausted, match="every valid architecture of tiny"):
        searcher.ask(12)


@pytest.mark.parametrize("name", [c for c in cases(*OPTUNA) if c.values[0] not in ("random", "gp")])
def test_failed_trials_are_not_learnt_from_and_infeasible_ones_only_by_their_violation(name: str) -> None:
    """Only the least wide networks are inside the bound, and some fail: proposals gather where none of that is."""
    searcher = make(name, seed=1)
    archs: list[ArchSpec] = []
    for n in range(90):
        if n > 0:
            arch, told = archs[-1], result(searcher, n - 1, archs[-1])
            if arch.blocks[0].mixer.op == "convolution":
                told = Observation(told.number, told.genome, np.full(2, np.nan), 0.0, "failed")
            elif arch.d_model > 64:
                violation = arch.d_model / 64 - 1
                told = Observation(told.number, told.genome, np.array([np.nan, 0.0]), violation, "infeasible")
            searcher.tell(told)
        archs.append(searcher.ask(n).arch)
    widths = [a.d_model for a in archs[45:]]
    assert sum(w <= 64 for w in widths) > 0.75 * len(widths)


BEATS_CHANCE = [c for c in cases(*(set(HERE) - {"nsga2"})) if c.values[0] != "random"]


@pytest.mark.parametrize("name", BEATS_CHANCE)
def test_learning_beats_chance(name: str) -> None:
    effort = (2, 36, 0, 3) if name == "gp" else (8, 200, 16, 5)
    assert typical(name, *effort) > typical("random", *effort)


@cache
def typical(name: str, num_blocks: int, num_trials: int, lag: int, num_seeds: int) -> float:
    """The hypervolume that half of the searches reach."""
    made = (make(name, seed, num_blocks) for seed in range(num_seeds))
    return median(hypervolume(explore(s, num_trials, lag)) for s in made)


def test_violations_are_summed_as_ratios_of_their_bounds_and_losses_are_minimized() -> None:
    objectives = (Objective("accuracy", direction="maximize", lower=0.5), Objective("bytes", upper=1e6))
    arch = Encoding(toy.space()).decode((0,) * len(Encoding(toy.space())))
    values = {"accuracy": 0.4, "bytes": 1.2e6}
    trial = Trial(3, arch.to_json(), arch.id, "infeasible", values, {"accuracy": 0.1, "bytes": 2e5})
    told = observation_of(trial, objectives, Encoding(toy.space()))
    assert told.losses.tolist() == [-0.4, 1.2e6]
    assert told.violation == pytest.approx(0.1 / 0.5 + 2e5 / 1e6)


def test_an_unknown_searcher_is_refused_with_the_known_names() -> None:
    with pytest.raises(UsageError, match=r"--searcher: unknown 'magic'.* known: .*random, nsga2, "):
        make("magic")


def test_each_searcher_says_in_a_sentence_what_it_does() -> None:
    for name, entry in SEARCHERS.items():
        assert 20 < len(entry.about) < 100, name
        assert not entry.about.endswith("."), name
