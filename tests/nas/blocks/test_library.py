"""A table of block scores: what it holds, that costs add up, and that its answers keep their budgets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from nas.blocks.choose import Costs, best_within, check, check_bounds, mix_n_match
from nas.blocks.library import (
    Entry,
    Library,
    build_library,
    candidates,
    read_library,
    replaced,
    write_library,
)
from nas.errors import ArtifactError, UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.tasks.text import user_text
from nas.training.sandwich import Sandwich
from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.spec.arch import NONE, ArchSpec, OpSpec
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet

SPACE = """
name = "small"
task = "causal_lm"
data = "plays"
d_model = 16
position = "rope"
final_norm = "rmsnorm"
stem = { op = "token_embedding", vocab_size = 256, max_len = 8 }
head = { op = "lm_head", vocab_size = 256 }
[[stages]]
num_blocks = 2
[blocks]
mixer = ["softmax_attention", { op = "pooling", window = 3 }, "none"]
ffn = [{ op = "mlp", d_ff = [8, 16, 32], activation = "gelu" }, "none"]
norm = "rmsnorm"
[operators.softmax_attention]
num_groups = [1, 2]
heads_per_group = 1
head_dim = 16
window = 0
sinks = 0
normalizer = "softmax"
qk_norm = "none"
score_bias = "none"
temperature = "none"
[operators.rope]
dim = 16
"""
WORKLOAD = Workload(seq_len=8)
COSTS = Costs(WORKLOAD, None)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> SpaceSpec:
    path = tmp_path_factory.mktemp("space") / "small.toml"
    path.write_text(SPACE)
    return load_space(str(path))


@pytest.fixture(scope="module")
def judged(space: SpaceSpec, tmp_path_factory: pytest.TempPathFactory) -> InheritedQuality:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 30)
    return InheritedQuality.of(Supernet(space, seed=3), user_text(str(path), 8), 8, 8)


@pytest.fixture(scope="module")
def library(judged: InheritedQuality, space: SpaceSpec) -> Library:
    return build_library(judged, space, Sandwich(space, 0, 0).largest, lambda step: None)


def test_the_table_holds_every_candidate_of_every_layer_once(library: Library, space: SpaceSpec) -> None:
    """4 mixers (two sizes of attention, pooling, none) and 4 ffns (three sizes, none) in each of 2 layers."""
    wanted = list(candidates(space, library.parent))
    assert [(e.layer, e.slot, e.spec) for e in library.entries] == wanted
    assert len(set(wanted)) == len(wanted) == 2 * (4 + 4)
    assert set(library.groups()) == set(product((0, 1), ("mixer", "ffn")))


def test_a_score_is_the_loss_with_one_block_replaced_less_the_parents(
    library: Library, judged: InheritedQuality
) -> None:
    for entry in library.entries:
        arch = replaced(library.parent, entry.layer, entry.slot, entry.spec)
        measured = quality(judged.network(arch), judged.calibration[:2])["loss"]
        assert entry.delta == pytest.approx(measured - library.loss, abs=1e-6)
        assert library.delta([entry]) == entry.delta
        if arch == library.parent:
            assert entry.delta == 0.0


def test_costs_of_replaced_blocks_add_up_exactly(library: Library) -> None:
    """So an answer that keeps a budget by the sums keeps it as a network."""
    rng, groups, names = (
        np.random.default_rng(0),
        list(library.groups().values()),
        ["parameters", "memory", "flops"],
    )
    base = COSTS.of(library.parent, names)
    for _ in range(30):
        chosen = [group[int(rng.integers(len(group)))] for group in groups]
        added = [COSTS.of(library.network([e]), names) - base for e in chosen]
        np.testing.assert_allclose(base + sum(added), COSTS.of(library.network(chosen), names), rtol=1e-12)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0])
def test_the_answer_is_the_best_of_all_networks_of_the_table(share: float, library: Library) -> None:
    """Against all 256 combinations, within two budgets at once."""
    groups, names = list(library.groups().values()), ["parameters", "flops"]
    largest = COSTS.of(library.parent, names)
    smallest = COSTS.of(library.network([Entry(i, s, NONE, 0.0) for i, s in library.groups()]), names)
    limits = smallest + share * (largest - smallest)
    fitting = [c for c in product(*groups) if (COSTS.of(library.network(c), names) <= limits).all()]
    found = best_within(library, COSTS, dict(zip(names, limits.tolist(), strict=True)))
    assert library.delta(found) == pytest.approx(min(map(library.delta, fitting)), abs=1e-9)
    assert (COSTS.of(library.network(found), names) <= limits).all()


def test_a_budget_that_nothing_keeps_is_refused_with_what_would_be_possible(library: Library) -> None:
    with pytest.raises(UsageError, match=r"no network keeps these bounds; .* parameters \d+"):
        best_within(library, COSTS, {"parameters": 10.0})
    with pytest.raises(UsageError, match=r"even the smallest ffn everywhere has parameters"):
        mix_n_match(library, COSTS, {"parameters": 10.0})


def test_bounds_on_what_is_not_a_cost_and_latency_without_a_device_are_refused(library: Library) -> None:
    with pytest.raises(UsageError, match=r"--max loss: .* latency, memory"):
        check_bounds({"loss": 1.0})
    with pytest.raises(UsageError, match="the study has no profile of a device"):
        best_within(library, COSTS, {"latency": 1.0})


def test_mix_n_match_gives_the_widest_ladder_of_sizes_within_the_budget(library: Library) -> None:
    found = []
    for d_ffs in ((8, 8), (8, 16), (16, 16), (16, 32), (32, 32)):
        arch = library.parent
        for layer, d_ff in enumerate(d_ffs):
            arch = replaced(arch, layer, "ffn", OpSpec.of("mlp", d_ff=d_ff, activation=OpSpec("gelu")))
        chosen = mix_n_match(library, COSTS, {"parameters": float(cost(arch, WORKLOAD).parameters)})
        found.append(tuple(e.spec["d_ff"] for e in chosen))
        assert library.network(chosen) == arch
    assert found == [(8, 8), (8, 16), (16, 16), (16, 32), (32, 32)]


def test_a_table_whose_losses_add_up_is_trusted_in_full(library: Library) -> None:
    """The measured loss of this judge is the prediction itself, plus a constant for the parent."""
    deltas = {(e.layer, e.slot, e.spec): e.delta for e in library.entries}

    def loss_of(arch: ArchSpec) -> float:
        places: Sequence[tuple[int, str]] = list(library.groups())
        return 5.0 + sum(deltas[i, slot, getattr(arch.blocks[i], slot)] for i, slot in places)

    trust = check(library, COSTS, loss_of, 20)
    assert trust.kendall == trust.spearman == pytest.approx(1.0)
    assert trust.mean_error == pytest.approx(0.0, abs=1e-12)
    assert len(trust.measured) == 20


def test_a_table_on_disk_is_the_table_and_a_damaged_one_is_named(library: Library, tmp_path: Path) -> None:
    write_library(library, tmp_path)
    assert read_library(tmp_path) == library
    (tmp_path / "library.json").write_text('{"parent": 3')
    with pytest.raises(ArtifactError, match=r"library\.json is damaged"):
        read_library(tmp_path)


class Curved(Costs):
    """A device whose latency is no sum: a power of one."""

    def _sum_ms(self, arch: ArchSpec) -> float:
        return cost(arch, WORKLOAD).flops / 1e5

    def _latency(self, arch: ArchSpec) -> float:
        return self._sum_ms(arch) ** 0.8


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_latency_that_is_no_sum_keeps_its_bound_and_uses_it(share: float, library: Library) -> None:
    """The best of all 256 combinations under the corrected latency, not under the sum."""
    curved, groups = Curved(WORKLOAD, None), list(library.groups().values())
    ends = (curved._latency(library.network([])), curved._latency(library.network([g[-1] for g in groups])))
    limit = min(ends) + share * abs(ends[0] - ends[1])
    fitting = [c for c in product(*groups) if curved._latency(library.network(c)) <= limit]
    found = best_within(library, curved, {"latency": limit})
    assert curved._latency(library.network(found)) <= limit
    assert library.delta(found) == pytest.approx(min(map(library.delta, fitting)), abs=1e-9)
