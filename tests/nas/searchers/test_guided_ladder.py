"""The guided searcher on a ladder of judgements: what it believes, who goes on, and that it can be replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from nas.searchers.base import TO_THE_END, NothingInTime, Observation, Problem, Proposal
from nas.searchers.guided.batch import in_each_format
from nas.searchers.guided.climbing import PLAIN_IN_FULL, PLAIN_SHARE
from nas.searchers.guided.evidence import gather
from nas.searchers.guided.pace import pace
from nas.searchers.guided_searcher import GuidedSearcher
from nas.setup.runtime import with_int8
from searchspace.spec.arch import ONNX_INT8, ArchSpec
from searchspace.spec.genome import Encoding, Genome
from searchspace.spec.handmade import ORIGINAL, PLAIN
from tests.nas.engine import toy

ENCODING = Encoding(toy.space())
LADDER = ("quarter", "half")
RUNGS = (*LADDER, "")
SHARES = {"eighth": 0.125, "quarter": 0.25, "half": 0.5, "": 1.0}
BEHIND = {
    "eighth": 0.9,
    "quarter": 0.6,
    "half": 0.3,
    "": 0.0,
}  # what a network still has to gain, and how unevenly
LAG = 4


def plain(count: int = 4) -> tuple[Genome, ...]:
    drawn = ENCODING.random(count, np.random.default_rng(5))
    return tuple(tuple(int(g) for g in genome) for genome in drawn)


def searcher(seed: int = 0, ladder: tuple[str, ...] = LADDER, num_plain: int = 4) -> GuidedSearcher:
    problem = Problem(ENCODING, 2, seed, lambda arch: None, ladder, frozenset({0}), plain(num_plain))
    return GuidedSearcher(problem)


def result(number: int, proposal: Proposal) -> Observation:
    """The cost is known at every rung; the loss is what it will be, and an uneven remainder."""
    values = toy.judge(proposal.arch)
    uneven = int(proposal.arch.id[:4], 16) / 0xFFFF
    loss = values["loss"] + BEHIND[proposal.fidelity] * (1 + 0.5 * uneven)
    state = "pruned" if proposal.fidelity else "complete"
    genome = ENCODING.encode(proposal.arch)
    return Observation(number, genome, np.array([loss, values["cost"]]), 0.0, state, proposal.fidelity)


def run(search: GuidedSearcher, count: int) -> list[Proposal]:
    proposals: list[Proposal] = []
    for n in range(count):
        if n > LAG:
            search.tell(result(n - LAG - 1, proposals[n - LAG - 1]))
        proposals.append(search.ask(n))
    return proposals


def told(genome: Genome, loss: float, fidelity: str, number: int = 0) -> Observation:
    return Observation(number, genome, np.array([loss, 1.0]), 0.0, "complete", fidelity)


GENOMES: list[Genome] = [
    tuple(int(g) for g in genome) for genome in ENCODING.random(9, np.random.default_rng(1))
]


def test_what_was_judged_in_full_is_exact() -> None:
    found = gather([told(GENOMES[0], 3.0, "quarter"), told(GENOMES[0], 2.0, "", 1)], RUNGS, frozenset({0}))
    assert found.rows[0].losses.tolist() == [2.0, 1.0]
    assert found.stds.tolist() == [[0.0, 0.0]]
    assert found.rungs.tolist() == [2]
    assert found.rows[0].number == 1


def test_a_loss_is_carried_up_by_the_line_through_the_networks_judged_at_both_rungs() -> None:
    """With many pairs on one line, without remainder, the prior no longer matters."""
    results = []
    for i, genome in enumerate(GENOMES[:8]):
        results += [told(genome, 3 + 0.1 * i, "half"), told(genome, 1 + 0.05 * i, "")]
    results = results * 1 + [told(GENOMES[8], 3.35, "half", 99)]
    found = gather(results, ("half", ""), frozenset({0}))
    expected = 1 + 0.05 * 3.5
    assert found.rows[-1].losses[0] == pytest.approx(
        expected, abs=1e-12
    )  # at the mean the slope is without effect
    assert found.rows[-1].losses[1] == 1.0
    assert 0 < found.stds[-1, 0] < 0.1
    assert found.stds[-1, 1] == 0.0


def test_without_pairs_who_is_ahead_stays_ahead_by_as_much_and_nothing_is_certain() -> None:
    found = gather(
        [told(GENOMES[0], 3.0, "quarter"), told(GENOMES[1], 2.5, "quarter")], RUNGS, frozenset({0})
    )
    first, second = found.rows
    assert first.losses[0] - second.losses[0] == pytest.approx(0.5)
    assert (found.stds[:, 0] > 0.1).all()


def test_more_rungs_to_go_are_less_certain() -> None:
    results = [told(GENOMES[i], 3 + 0.1 * i, "quarter") for i in range(4)]
    results += [told(GENOMES[i], 2.5 + 0.08 * i + 0.03 * (i % 2), "half") for i in range(3)]
    results += [told(GENOMES[i], 2.2 + 0.07 * i + 0.02 * (i % 2), "") for i in range(2)]
    found = gather(results, RUNGS, frozenset({0}))
    assert found.rungs.tolist() == [2, 2, 1, 0]
    assert found.stds[0, 0] == 0 < found.stds[2, 0] < found.stds[3, 0]


def test_a_network_that_skipped_rungs_says_how_far_the_others_of_its_first_one_will_come() -> None:
    """All lie on one line from the quarter to the end; nothing was judged at a half. The middle one is asked for."""
    results = [told(genome, 3 + 0.1 * i, "quarter", i) for i, genome in enumerate(GENOMES)]
    results += [told(GENOMES[i], 1 + 0.05 * i, "", 20 + i) for i in range(9) if i != 4]
    found = gather(results, RUNGS, frozenset({0}))
    assert found.rungs.tolist() == [2] * 4 + [0] + [2] * 4
    assert found.rows[4].losses[0] == pytest.approx(1.2, abs=1e-9)
    assert 0 < found.stds[4, 0] < 0.15


def test_every_other_proposal_is_a_plain_network_until_all_are_there_each_at_the_lowest_rung() -> None:
    proposals = run(searcher(), 9)
    assert [p.origin == PLAIN for p in proposals] == [True, False] * 4 + [False]
    assert [ENCODING.encode(p.arch) for p in proposals[:8:2]] == list(plain())
    assert {p.fidelity for p in proposals[:8:2]} == {"quarter"}


def test_networks_go_on_to_the_next_rung_or_the_end_after_their_result_was_told() -> None:
    proposals = run(searcher(), 60)
    known: dict[str, str] = {}
    for n, proposal in enumerate(proposals):
        assert known.get(proposal.arch.id, "none") != ""
        if proposal.origin == "promoted":
            (parent,) = proposal.parents
            before = proposals[parent]
            assert parent < n - LAG
            assert before.arch == proposal.arch
            assert proposal.fidelity in (RUNGS[RUNGS.index(before.fidelity) + 1], "")
        else:
            assert proposal.fidelity == LADDER[0]
            assert proposal.arch.id not in known
        known[proposal.arch.id] = proposal.fidelity
    assert min([p.fidelity for p in proposals].count(rung) for rung in ("half", "")) >= 5


def test_a_network_in_other_formats_is_judged_where_its_training_is() -> None:
    encoding = Encoding(with_int8(toy.space()))
    formats = np.array([".quant." in v.name for v in encoding.variables])
    drawn = np.where(formats, 0, encoding.random(1, np.random.default_rng(0)))
    both = (tuple(encoding.canonical(np.where(formats, i, drawn))[0].tolist()) for i in (0, 1))
    native, int8 = both
    for rung in RUNGS:
        problem = Problem(encoding, 2, 0, lambda arch: None, LADDER, frozenset({0}), (native, int8))
        search = GuidedSearcher(problem)
        asked = [search.ask(0), search.ask(1)]
        search.tell(told(native, 3.0, rung))
        asked.append(search.ask(2))
        assert [encoding.encode(asked[i].arch) for i in (0, 2)] == [native, int8]
        assert [p.fidelity for p in asked] == [LADDER[0], LADDER[0], rung]


def test_the_front_in_each_format_is_what_it_is_but_for_its_formats() -> None:
    encoding = Encoding(with_int8(toy.space()))
    front = encoding.random(3, np.random.default_rng(0))
    natives = [encoding.decode(tuple(g)).unquantized for g in front.tolist()]
    archs = [encoding.decode(tuple(g)) for g in in_each_format(encoding, front).tolist()]
    assert [a.unquantized for a in archs] == natives * 2
    assert [a.formats for a in archs] == [()] * 3 + [(ONNX_INT8,)] * 3
    assert not len(in_each_format(ENCODING, np.array(GENOMES)))


def test_little_is_judged_in_full_that_is_of_no_use_beside_the_original() -> None:
    problem = Problem(ENCODING, 2, 0, lambda arch: None, LADDER, frozenset({0}), plain())
    original = plain()[0]
    limit = toy.judge(ENCODING.decode(original))["loss"] + 0.5
    shares = []
    for useless in ({}, {0: lambda loss: loss + 0.5}):
        posed = replace(problem, origins={original: ORIGINAL}, useless=useless)
        searches = (GuidedSearcher(replace(posed, seed=seed)) for seed in range(4))
        in_full = [p.arch for search in searches for p in run(search, 90) if not p.fidelity]
        shares.append(np.mean([toy.judge(arch)["loss"] > limit for arch in in_full]))
    assert shares[1] < shares[0] / 2


def test_few_plain_networks_are_judged_in_full_and_more_only_as_fast_as_others_are() -> None:
    family = set(plain(16))
    seen = [(ENCODING.encode(p.arch) in family, p.fidelity) for p in run(searcher(num_plain=16), 90)]
    counts = {True: 0, False: 0}
    for is_plain, fidelity in seen:
        counts[is_plain] += fidelity == ""
        assert counts[True] <= max(PLAIN_IN_FULL, counts[False] // PLAIN_SHARE + 1)
    assert counts[True] >= PLAIN_IN_FULL
    assert (True, "half") not in seen


def test_the_first_networks_are_of_every_size() -> None:
    """Of greatest variance alone they would all be of the most blocks."""
    problem = Problem(ENCODING, 2, 0, lambda arch: None, LADDER, frozenset({0}))
    counts = [
        sum(block.is_active for block in GuidedSearcher(replace(problem, seed=seed)).ask(n).arch.blocks)
        for seed in range(4)
        for n in range(10)
    ]
    most = max(v for v in map(len, (p.blocks for p in map(ENCODING.decode, GENOMES))))
    assert min(counts) <= most // 2
    assert np.mean(np.array(counts) == most) < 0.7


def test_of_networks_that_promise_as_much_the_cheaper_ones_are_judged_in_full_first() -> None:
    def spent(price: Callable[[ArchSpec], float] | None) -> float:
        problem = Problem(ENCODING, 2, 0, lambda arch: None, LADDER, frozenset({0}), plain())
        proposals = run(GuidedSearcher(problem, price=price), 60)
        return float(np.mean([toy.judge(p.arch)["cost"] for p in proposals if not p.fidelity]))

    without = spent(None)
    assert spent(lambda arch: toy.judge(arch)["cost"]) < without
    assert spent(lambda arch: float("nan")) == without  # not known


def test_the_most_promising_network_goes_to_the_end_as_soon_as_there_is_a_belief() -> None:
    family = set(plain())
    found = [
        p for p in run(searcher(ladder=("eighth", *LADDER)), 60) if ENCODING.encode(p.arch) not in family
    ]
    promoted = [p.fidelity for p in found if p.origin == "promoted"]
    assert promoted[0] == ""
    assert (
        sum(p.fidelity == "eighth" for p in found[: found.index(next(p for p in found if not p.fidelity))])
        < 16
    )


def test_a_search_goes_on_from_its_record_with_the_same_proposals() -> None:
    whole = run(searcher(3), 50)
    for stopped in (6, 17, 33, 49):
        again = searcher(3)
        for n, proposal in enumerate(whole[:stopped]):
            if n > LAG:
                again.tell(result(n - LAG - 1, whole[n - LAG - 1]))
            if n < stopped - LAG:
                again.register(proposal.arch.id, proposal.arch.to_json(), proposal.fidelity)
            else:
                assert again.ask(n) == proposal
        if stopped > LAG:
            again.tell(result(stopped - LAG - 1, whole[stopped - LAG - 1]))
        assert again.ask(stopped) == whole[stopped] if stopped < len(whole) else True


def test_once_the_time_is_nearly_over_found_and_plain_networks_are_judged_in_full_in_turns() -> None:
    search, proposals = searcher(num_plain=8), list[Proposal]()
    family = set(plain(8))
    for n in range(24):
        if n > LAG:
            search.tell(result(n - LAG - 1, proposals[n - LAG - 1]))
        proposals.append(search.ask(n, None if n < 12 else 100.0))
    last = proposals[12:]
    assert {(p.origin, p.fidelity) for p in last[:6]} == {(TO_THE_END, "")}
    assert sum(ENCODING.encode(p.arch) in family for p in last[:6]) == 3
    for p in last:
        if p.origin == TO_THE_END:
            (parent,) = p.parents
            assert proposals[parent].arch == p.arch
    in_full = [p.arch.id for p in proposals if p.fidelity == ""]
    assert len(in_full) == len(set(in_full))


def test_plain_networks_that_take_longer_get_no_more_of_the_last_time_than_the_others() -> None:
    search, proposals = searcher(num_plain=8), list[Proposal]()
    family = set(plain(8))

    def seconds(proposal: Proposal) -> float:
        share = 0.25 if proposal.fidelity else 0.75
        return share * (50.0 if ENCODING.encode(proposal.arch) in family else 10.0)

    for n in range(24):
        if n > LAG:
            found = result(n - LAG - 1, proposals[n - LAG - 1])
            search.tell(replace(found, seconds=seconds(proposals[found.number])))
        if n == 12:
            assert search.finishing_seconds() == pytest.approx(80.0), "for found networks, of 10 s each"
        proposals.append(search.ask(n, None if n < 12 else 1000.0))
    last = [ENCODING.encode(p.arch) in family for p in proposals if p.origin == TO_THE_END]
    assert sum(last[:5]) == 1


def test_plain_networks_that_cost_more_to_train_are_judged_in_full_for_as_much_as_the_others() -> None:
    family = set(plain(8))

    def price(arch: ArchSpec) -> float:
        return 5.0 if ENCODING.encode(arch) in family else 1.0

    problem = Problem(ENCODING, 2, 0, lambda arch: None, LADDER, frozenset({0}), plain(8))
    spent = {True: 0.0, False: 0.0}
    for p in run(GuidedSearcher(problem, price=price), 80):
        is_plain = ENCODING.encode(p.arch) in family
        spent[is_plain] += 0.0 if p.fidelity else price(p.arch)
        assert spent[True] <= max(5.0, spent[False])
    assert spent[True] >= 10.0


def test_plain_networks_that_cost_more_to_train_are_proposed_less_often() -> None:
    family = plain(4)
    problem = Problem(ENCODING, 2, 0, lambda arch: None, LADDER, frozenset({0}), family)

    def price(times: float) -> Callable[[ArchSpec], float]:
        return lambda arch: times if ENCODING.encode(arch) in family else 1.0

    assert [pace(problem, price(times)) for times in (0.5, 1, 4, 100)] == [2, 2, 5, 8]
    assert pace(problem, lambda arch: float("nan")) == 2, "not known"
    assert pace(replace(problem, plain=()), price(4)) == 2
    assert sorted(replace(problem, pace=5).opening) == [0, 5, 10, 15]


def test_nothing_is_judged_in_full_that_would_end_too_late() -> None:
    search, proposals = searcher(), list[Proposal]()
    for n in range(20):
        if n > LAG:
            found = result(n - LAG - 1, proposals[n - LAG - 1])
            search.tell(replace(found, seconds=10.0 if found.number % 3 else 1.0))
        try:  # of the first quarter, three more follow
            proposals.append(search.ask(n, None if n < 12 else 3.0))
        except NothingInTime:
            break
    last = [p for p in proposals if p.origin == TO_THE_END]
    assert last
    assert {p.parents[0] % 3 for p in last} == {0}


def test_nothing_is_begun_that_would_end_too_late() -> None:
    search, proposals = searcher(), list[Proposal]()
    assert search.finishing_seconds() == 0.0
    for n in range(9):
        if n > LAG:
            search.tell(replace(result(n - LAG - 1, proposals[n - LAG - 1]), seconds=10.0))
        proposals.append(search.ask(n))
    # a quarter takes 10 s, a whole training 40: of eight networks
    assert search.finishing_seconds() == pytest.approx(320.0)
    assert search.ask(9, 35.0).origin == TO_THE_END
    with pytest.raises(NothingInTime, match=r"in the 5 s left"):
        search.ask(10, 5.0)


def test_the_first_networks_cost_no_more_than_the_dearest_plain_one() -> None:
    family = tuple(sorted(plain(40), key=lambda g: toy.judge(ENCODING.decode(g))["cost"]))[:8]
    problem = Problem(ENCODING, 2, 0, lambda arch: None, LADDER, frozenset({0}), family)
    limit = max(toy.judge(ENCODING.decode(g))["cost"] for g in family)
    for known in (
        {"exact": {1: lambda arch: toy.judge(arch)["cost"]}},
        {"price": lambda arch: 3.0 * toy.judge(arch)["cost"]},  # of training
    ):
        limited = GuidedSearcher(problem, **known)
        costs = [toy.judge(p.arch)["cost"] for p in (limited.ask(n) for n in range(10))]
        assert max(costs) <= limit
    unlimited = [toy.judge(p.arch)["cost"] for p in (GuidedSearcher(problem).ask(n) for n in range(10))]
    assert max(unlimited) > limit


def test_a_search_that_was_hurried_to_its_end_still_begins_every_plain_network_when_it_goes_on() -> None:
    search, proposals = searcher(num_plain=12), list[Proposal]()
    for n in range(12):
        if n > LAG:
            search.tell(result(n - LAG - 1, proposals[n - LAG - 1]))
        proposals.append(search.ask(n, None if n < 8 else 100.0))
    assert sum(p.origin == TO_THE_END for p in proposals) == 4  # too few results for a model
    again = searcher(num_plain=12)
    for n in range(60):
        if n > LAG:
            again.tell(result(n - LAG - 1, proposals[n - LAG - 1]))
        if n < 12:
            again.register(
                proposals[n].arch.id, proposals[n].arch.to_json(), proposals[n].fidelity, proposals[n].origin
            )
        else:
            proposals.append(again.ask(n))
    begun = {ENCODING.encode(p.arch) for p in proposals if p.fidelity == LADDER[0]}
    assert set(plain(12)) <= begun
    assert len({(p.arch.id, p.fidelity) for p in proposals}) == len(proposals)


def best_after(search: GuidedSearcher, budget: float) -> float:
    """The share of the (loss, cost) plane below (4, 60) that is dominated once so many full judgements are spent."""
    from studies.pareto import hypervolume

    spent, points, reached = 0.0, [], dict[str, float]()
    proposals: list[Proposal] = []
    while spent < budget:
        n = len(proposals)
        if n > LAG:
            search.tell(result(n - LAG - 1, proposals[n - LAG - 1]))
        proposals.append(search.ask(n))
        arch, share = proposals[-1].arch, SHARES[proposals[-1].fidelity]
        spent += share - reached.get(arch.id, 0.0)
        reached[arch.id] = share
        if proposals[-1].fidelity == "":
            values = toy.judge(arch)
            points.append((values["loss"], values["cost"]))
    return hypervolume(np.array(points), np.array([4.0, 60.0])) / (4.0 * 60.0)


@pytest.mark.slow
def test_climbing_finds_a_better_front_than_judging_each_in_full_at_the_same_price() -> None:
    ladder = np.mean([best_after(searcher(seed), 24) for seed in range(3)])
    in_full = np.mean([best_after(searcher(seed, ()), 24) for seed in range(3)])
    assert ladder > in_full
