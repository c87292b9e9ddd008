"""What is special to the samplers from Optuna."""

from __future__ import annotations

import pytest

from nas.errors import UsageError
from nas.searchers.optuna_searcher import POPULATION_SIZE, OptunaSearcher
from tests.nas.searchers.explore import explore, make, result


def test_gaussian_processes_refuse_a_space_of_many_decisions_and_name_their_number() -> None:
    """The toy space of four blocks: width, depth, and seven decisions in each block."""
    with pytest.raises(UsageError, match=r"at most 20 decisions, space toy has 30: .* take tpe"):
        make("gp", num_blocks=4)


@pytest.mark.parametrize("name", ["optuna-nsga2", "optuna-nsga3"])
def test_proposals_of_a_generation_descend_from_the_one_before(name: str) -> None:
    """Where the told of a generation all have the same width, crossover gives no other; mutation seldom does."""
    searcher = make(name)
    assert isinstance(searcher, OptunaSearcher)
    number = 0
    while searcher._num_ranked < POPULATION_SIZE:
        arch = searcher.ask(number).arch
        if arch.d_model == 64:
            searcher.tell(result(searcher, number, arch))
        number += 1
    widths = [searcher.ask(n).arch.d_model for n in range(number, number + 20)]
    assert widths.count(64) > 15


def test_generations_go_on_past_the_first() -> None:
    searcher = make("optuna-nsga3")
    archs = explore(searcher, 3 * POPULATION_SIZE + 20)
    assert len({a.id for a in archs}) == len(archs)
