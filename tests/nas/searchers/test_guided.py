"""The predictor-guided searcher: features, predictors and gains equal their definitions, batches can be replayed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from nas.searchers.base import Observation, Problem, Searcher, as_genome
from nas.searchers.guided.evolution import evolve
from nas.searchers.guided.features import Described, Features, families_of, tied
from nas.searchers.guided.gaussian_process import (
    NUM_KERNELS,
    _covariance,
    _leave_one_out,
    choose_weights,
    fit,
    kernels,
    standardize,
)
from nas.searchers.guided.improvement import boxes, choose_batch, expected_improvement
from nas.searchers.guided.model import checkpoint
from nas.searchers.guided_searcher import GuidedSearcher, batch_around
from nas.searchers.random_searcher import RandomSearcher
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies.pareto import hypervolume, non_dominated
from tests.nas.engine import toy

ENCODING = Encoding(toy.space())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def accept(arch: ArchSpec) -> None:
    return None


def losses_of(arch: ArchSpec) -> np.ndarray:
    values = toy.judge(arch)
    return np.array([values["loss"], values["cost"]])


def guided(seed: int = 0, **settings: object) -> GuidedSearcher:
    return GuidedSearcher(Problem(ENCODING, 2, seed, accept), **settings)  # type: ignore[arg-type]


def result(number: int, arch: ArchSpec) -> Observation:
    return Observation(number, ENCODING.encode(arch), losses_of(arch), 0.0, "complete")


def search(searcher: Searcher, num_trials: int, lag: int = 0) -> list[ArchSpec]:
    archs: list[ArchSpec] = []
    for n in range(num_trials):
        if n > lag:
            searcher.tell(result(n - lag - 1, archs[n - lag - 1]))
        archs.append(searcher.ask(n).arch)
    return archs


# features


def test_genes_of_decisions_that_do_not_exist_change_no_feature() -> None:
    raw = rng().integers(0, ENCODING.num_values, size=(200, len(ENCODING)))
    canonical = ENCODING.canonical(raw)
    assert (raw != canonical).any()
    features = Features(ENCODING)
    for a, b in zip(features.raw(raw), features.raw(canonical), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sums_count_the_blocks_that_chose_each_value() -> None:
    genomes = ENCODING.random(50, rng())
    archs = [ENCODING.decode(as_genome(g)) for g in genomes]
    attentions = [sum(b.mixer.op == "attention" for b in a.blocks) for a in archs]
    ratios = [sum(b.ffn.get("ratio", 0) for b in a.blocks) / 4 for a in archs]  # as shares of the largest
    sums = Features(ENCODING).raw(genomes)[1]
    for expected in (attentions, ratios):
        assert np.isclose(sums, np.array(expected)[:, None]).all(axis=0).any()


def test_tied_genomes_are_canonical_and_spread_their_sums_wider_than_independent_ones() -> None:
    encoding = Encoding(toy.space(12))
    drawn = tied(encoding, 400, rng())
    np.testing.assert_array_equal(drawn, encoding.canonical(drawn))
    family = next(f for f in families_of(encoding) if "mixer" in encoding.variables[f[0]].name)
    depth = next(i for i, v in enumerate(encoding.variables) if v.name == "stages.0.depth")
    shares = [g[:, family].sum(axis=1) / (g[:, depth] + 1) for g in (drawn, encoding.random(400, rng()))]
    assert shares[0].std() > shares[1].std()


# predictors


def described(count: int, seed: int = 0) -> Described:
    return Features(ENCODING)(ENCODING.random(count, rng(seed)))


def test_leave_one_out_density_is_that_of_leaving_each_out() -> None:
    seen = described(12)
    parts = kernels(seen, seen)
    values = rng(1).standard_normal(12)
    weights = rng(2).standard_normal(NUM_KERNELS + 1)
    covariance = _covariance(parts, weights)
    residuals, variances = [], []
    for i in range(12):
        rest = np.arange(12) != i
        gain = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, i])
        residuals.append(values[i] - gain @ values[rest])
        variances.append(covariance[i, i] - gain @ covariance[rest, i])
    scale = np.mean(np.square(residuals) / variances)
    expected = -np.mean(np.log(scale * np.array(variances)))
    assert _leave_one_out(parts, values, weights) == pytest.approx(expected, rel=1e-9)


def test_predictions_and_deviations_are_those_of_the_conditioned_normal_distribution() -> None:
    both = described(30)
    seen, queries = both[slice(0, 20)], both[slice(20, 30)]
    values = rng(1).standard_normal(20)  # some below 0, so not as logarithms
    weights = np.full(NUM_KERNELS + 1, -1.0)
    process = fit(seen, values, weights)
    joint = np.tensordot(np.exp(weights[:-1]), kernels(both, both), axes=1)
    noisy = joint[:20, :20] + (np.exp(-1.0) + 1e-8) * np.eye(20)
    target = (values - values.mean()) / values.std()
    gain = np.linalg.solve(noisy, joint[:20, 20:]).T
    mean, std = process.predict_with_std(queries)
    np.testing.assert_allclose(mean, values.mean() + values.std() * (gain @ target), rtol=1e-9)
    np.testing.assert_allclose(mean, process.predict(queries))
    left = np.diag(joint[20:, 20:] - gain @ joint[:20, 20:]) * (target @ np.linalg.solve(noisy, target)) / 20
    np.testing.assert_allclose(std, values.std() * np.sqrt(left), rtol=1e-6)


def test_a_product_of_width_and_counts_is_learnt_from_few_results() -> None:
    genomes = tied(ENCODING, 260, rng(3))
    archs = [ENCODING.decode(as_genome(g)) for g in genomes]
    values = np.array([a.d_model * (1.0 + sum(b.is_active for b in a.blocks)) for a in archs])
    seen = Features(ENCODING)(genomes)
    predicted = fit(seen[slice(0, 60)], values[:60]).predict(seen[slice(60, 260)])
    relative = np.abs(predicted / values[60:] - 1)
    assert np.median(relative) < 0.02


def test_chosen_kernels_predict_left_out_results_at_least_as_well_as_equal_ones() -> None:
    seen = described(40)
    standardized, *_ = standardize(np.exp(seen.sums.sum(axis=1)))
    parts = kernels(seen, seen)
    equal = np.append(np.zeros(NUM_KERNELS), np.log(1e-2))
    chosen = choose_weights(parts, standardized)
    assert _leave_one_out(parts, standardized, chosen) >= _leave_one_out(parts, standardized, equal)


def test_kernels_are_chosen_anew_when_results_have_grown_by_half() -> None:
    reached = [checkpoint(n) for n in range(8, 200)]
    steps = sorted(set(reached))
    assert all(b == a * 3 // 2 for a, b in pairwise(steps))
    assert all(c <= n for n, c in zip(range(8, 200), reached, strict=True))


# gains


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4])
def test_boxes_fill_what_no_point_dominates(num_objectives: int) -> None:
    """Clipped at 0, their volume and the dominated one make up the whole below the reference."""
    points, reference = rng(4).random((12, num_objectives)), np.ones(num_objectives)
    lower, upper = boxes(points, reference)
    volume = np.prod(upper - np.maximum(lower, 0.0), axis=1).sum()
    assert volume + hypervolume(points, reference) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("num_objectives", [1, 2, 3])
def test_expected_improvement_is_the_mean_gain_of_normal_samples(num_objectives: int) -> None:
    known, reference = 0.2 + 0.8 * rng(5).random((8, num_objectives)), np.full(num_objectives, 1.1)
    means, stds = rng(6).random((3, num_objectives)), np.full((3, num_objectives), 0.2)
    found = expected_improvement(means, stds, *boxes(known, reference))
    base = hypervolume(known, reference)
    for mean, std, expected in zip(means, stds, found, strict=True):
        samples = mean + std * rng(7).standard_normal((4000, num_objectives))
        gains = [hypervolume(np.vstack([known, s]), reference) - base for s in samples]
        assert expected == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(4000))


def test_a_batch_without_uncertainty_is_the_greedy_one_by_hypervolume() -> None:
    means, known, reference = rng(8).random((30, 2)), rng(9).random((4, 2)), np.ones(2)
    chosen = choose_batch(means, np.zeros((30, 2)), np.ones(30), known, reference, 5)
    for i in chosen:
        volumes = [hypervolume(np.vstack([known, m]), reference) for m in means]
        assert volumes[i] == pytest.approx(max(volumes), abs=1e-12)
        known = np.vstack([known, means[i]])


def test_where_several_are_chosen_at_once_they_are_those_that_add_most_each_by_itself() -> None:
    means, known, reference = rng(8).random((30, 2)), rng(9).random((4, 2)), np.ones(2)
    chosen = choose_batch(means, np.zeros((30, 2)), np.ones(30), known, reference, 5, at_once=3)
    left = list(range(30))
    for group in (chosen[:3], chosen[3:]):
        gains = {i: hypervolume(np.vstack([known, means[i]]), reference) for i in left}
        assert [gains[i] for i in group] == pytest.approx(
            sorted(gains.values())[::-1][: len(group)], abs=1e-12
        )
        known = np.vstack([known, means[group]])
        left = [i for i in left if i not in group]
    assert len(set(chosen)) == 5


def test_a_batch_holds_only_valid_candidates_and_asks_about_no_others_than_it_needs() -> None:
    means = rng(8).random((30, 2))
    asked: list[int] = []

    def is_even(index: int) -> bool:
        asked.append(index)
        return index % 2 == 0

    chosen = choose_batch(means, np.full((30, 2), 0.1), np.ones(30), means[:0], np.ones(2), 5, is_even)
    assert len(set(chosen)) == 5
    assert [i for i in asked if i % 2 == 0] == chosen


def test_evolution_finds_the_front_of_a_small_space() -> None:
    encoding = Encoding(toy.space(1))
    raw = np.array(list(np.ndindex(*encoding.num_values)), dtype=np.int64)
    genomes = np.unique(encoding.canonical(raw), axis=0)

    def judge(candidates: np.ndarray) -> np.ndarray:
        return np.array([losses_of(encoding.decode(as_genome(g))) for g in candidates])

    points = judge(genomes)
    _, found = evolve(encoding, judge, genomes[:20], 60, 25, rng(1))
    expected = np.unique(points[non_dominated(points)], axis=0)
    np.testing.assert_array_equal(np.unique(found[non_dominated(found)], axis=0), expected)


# the searcher


@pytest.mark.parametrize("lag", [0, 7, 16, 60])
def test_batches_follow_each_other_whether_or_not_the_lag_is_known_yet(lag: int) -> None:
    numbers = range(400)
    found = [batch_around(n, n - max(0, n - lag)) for n in numbers]
    assert all(start <= n < end for n, (start, end) in zip(numbers, found, strict=True))
    for (start, end), (later, _) in pairwise(dict.fromkeys(found)):
        assert later == end > start


@pytest.mark.parametrize(
    ("lag", "killed_at", "num_trials"),
    [(0, 23, 45), (16, 38, 45), pytest.param(100, 150, 170, marks=pytest.mark.slow)],
)
def test_a_searcher_rebuilt_in_the_middle_of_a_batch_goes_on_as_before(
    lag: int, killed_at: int, num_trials: int
) -> None:
    archs = search(guided(1), num_trials, lag)
    rebuilt = guided(1)
    for n, arch in enumerate(archs):
        if n > lag:
            rebuilt.tell(result(n - lag - 1, archs[n - lag - 1]))
        if n < killed_at:
            rebuilt.register(arch.id, arch.to_json())
        else:
            assert rebuilt.ask(n).arch == arch
    assert rebuilt.state() == {"version": 1, "num_told": num_trials - 1 - lag}


def test_it_needs_fewer_evaluations_than_random_search() -> None:
    """What it finds in 40, random search has not found in 120."""
    reference = (4.0, 300.0)

    def reached(searcher: Searcher, num_trials: int) -> float:
        return hypervolume([losses_of(a) for a in search(searcher, num_trials, lag=4)], reference)

    ours = [reached(guided(s), 40) for s in range(2)]
    chance = [reached(RandomSearcher(Problem(ENCODING, 2, s, accept)), 120) for s in range(2)]
    assert min(ours) > max(chance)


def test_what_fails_is_not_learnt_from_and_what_misses_a_bound_is_avoided() -> None:
    searcher = guided(2)
    archs: list[ArchSpec] = []
    for n in range(45):
        if n:
            arch, told = archs[-1], result(n - 1, archs[-1])
            if arch.blocks[0].mixer.op == "convolution" and arch.d_model == 32:
                told = Observation(n - 1, told.genome, np.full(2, np.nan), 0.0, "failed")
            elif arch.d_model > 64:
                told = Observation(
                    n - 1, told.genome, np.array([np.nan, 0.0]), arch.d_model / 64 - 1, "infeasible"
                )
            searcher.tell(told)
        archs.append(searcher.ask(n).arch)
    assert np.mean([a.d_model <= 64 for a in archs[25:]]) > 0.8


def test_only_what_can_be_built_is_proposed_where_little_can() -> None:
    def why_invalid(arch: ArchSpec) -> str | None:
        return "mixed" if len({b.mixer.op for b in arch.blocks if b.is_active}) > 1 else None

    searcher = GuidedSearcher(Problem(ENCODING, 2, 0, why_invalid))
    origins = []
    for n in range(30):
        proposal = searcher.ask(n)
        assert why_invalid(proposal.arch) is None
        origins.append(proposal.origin)
        searcher.tell(result(n, proposal.arch))
    assert origins.count("guided") >= 25


def test_results_of_an_earlier_study_replace_the_first_batches_and_are_not_proposed_again() -> None:
    """Ten that follow from them beat more of what is known than ten that are spread over the space."""
    before = search(guided(3), 25)
    known = np.array([losses_of(a) for a in before])
    new = {"warm": 0, "cold": 0}
    for seed in range(4, 9):
        warm = guided(seed, earlier=[result(n, a) for n, a in enumerate(before)])
        first = [warm.ask(n).arch for n in range(10)]
        assert not {a.id for a in first} & {a.id for a in before}
        for name, archs in (("warm", first), ("cold", search(guided(seed), 10))):
            dominated = [bool((known <= losses_of(a)).all(axis=1).any()) for a in archs]
            new[name] += dominated.count(False)
    assert new["warm"] > new["cold"]


def test_a_loss_that_is_computed_exactly_is_not_predicted_when_a_batch_is_chosen() -> None:
    """Exact values that no result ever showed rule out all but the networks of one width."""

    def cost(arch: ArchSpec) -> float:
        return float(losses_of(arch)[1]) if arch.d_model == 64 else 1e9

    archs = [ENCODING.decode(as_genome(g)) for g in tied(ENCODING, 30, rng(3))]
    earlier = [result(n, a) for n, a in enumerate(archs)]
    widths = [
        {searcher.ask(n).arch.d_model for n in range(5)}
        for searcher in (guided(6, earlier=earlier, exact={1: cost}), guided(6, earlier=earlier))
    ]
    assert widths[0] == {64}
    assert widths[1] != {64}


def test_a_loss_that_can_not_be_computed_is_predicted() -> None:
    archs = [ENCODING.decode(as_genome(g)) for g in tied(ENCODING, 30, rng(3))]
    earlier = [result(n, a) for n, a in enumerate(archs)]
    without = guided(6, earlier=earlier)
    unknown = guided(6, earlier=earlier, exact={1: lambda arch: float("nan")})
    assert [unknown.ask(n) for n in range(5)] == [without.ask(n) for n in range(5)]


def test_every_architecture_of_a_small_space_is_proposed_once() -> None:
    encoding = Encoding(toy.tiny_space())
    searcher = GuidedSearcher(Problem(encoding, 2, 0, accept))
    archs = []
    for n in range(encoding.size()):
        archs.append(searcher.ask(n).arch)
        width, depth = archs[-1].d_model, sum(b.is_active for b in archs[-1].blocks)
        losses = np.array([float(width), 1.0 / (width * depth)])
        searcher.tell(Observation(n, encoding.encode(archs[-1]), losses, 0.0, "complete"))
    assert len({a.id for a in archs}) == encoding.size()
