"""Pruning: scores by identities, cuts against silenced structures, choices against brute force, the command."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nas.blocks.importance import _run, hessian, magnitude, trajectory
from nas.blocks.pruning import METHODS, compare, greedy, knapsack
from nas.blocks.structures import Structures, cut, full, sized, structures
from nas.cli.main import main
from nas.errors import UsageError
from nas.linearize.source import Source
from nas.tasks.base import Batch
from nas.tasks.load import load_task
from searchspace.cost import cost
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload
from tests.nas.importing.test_families import TEXT
from tests.nas.importing.test_search import brought_in, text
from tests.searchspace.archs import decoder

STEM, HEAD = OpSpec.of("token_embedding", vocab_size=256, max_len=16), OpSpec.of("lm_head", vocab_size=256)


def block(groups: int, heads: int, hidden: int) -> BlockSpec:
    ffn = OpSpec.of("swiglu", d_ff=hidden)
    return BlockSpec(plain_attention(groups, heads, 4), ffn, OpSpec("rmsnorm"))


def network(*blocks: BlockSpec) -> Model:
    torch.manual_seed(0)
    base = decoder(*blocks)
    model = Model(
        ArchSpec(base.task, STEM, 8, base.blocks, base.stages, HEAD, base.position, base.final_norm)
    )
    for p in model.parameters():
        p.data.normal_(0.0, 0.4)
    return model.requires_grad_(False).eval()


def batches(count: int = 2) -> Sequence[Batch]:
    task = load_task("plays", stem=STEM, head=HEAD)
    return [task.batch(i, 3, 0) for i in range(count)]


MODEL = (block(3, 2, 6), block(1, 3, 5))


def flops(arch: ArchSpec) -> float:
    return float(cost(arch, Workload(seq_len=16)).flops)


@pytest.mark.parametrize("place", range(4))
def test_a_cut_network_is_the_whole_one_with_those_structures_silent(place: int) -> None:
    model = network(*MODEL)
    found = structures(model)
    s = found[place]
    assert [x.item for x in found] == ["num_groups", "d_ff", "heads_per_group", "d_ff"]
    importance = {x.name: torch.rand(x.size, generator=torch.Generator().manual_seed(3)) for x in found}
    worst = int(importance[s.name].argmin())
    batch = batches(1)[0]
    _, expected = _run(model, batch, s, slice(worst, worst + 1))
    smaller = cut(model, found, importance, full(found) | {s.name: s.size - 1})
    torch.testing.assert_close(smaller(batch.inputs)[0], expected, rtol=1e-4, atol=1e-5)
    assert flops(smaller.arch) < flops(model.arch)


def silent(model: Model) -> tuple[Structures, int, Structures, int]:
    """One FFN unit and one group that say nothing: their columns of the projection behind them are 0."""
    heads, units = structures(model)[:2]
    model.get_parameter(f"{units.name}.down_proj.weight")[:, 4] = 0.0
    model.get_parameter(f"{heads.name}.o_proj.weight")[:, 8:16] = (
        0.0  # group 1 of three, two heads of 4 channels
    )
    return heads, 1, units, 4


@pytest.mark.parametrize("score", [hessian, trajectory])
def test_what_says_nothing_is_worth_nothing_and_all_else_is_worth_something(score: Any) -> None:
    model = network(*MODEL)
    heads, group, units, unit = silent(model)
    found = score(model, structures(model), batches())
    for s, nothing in ((heads, group), (units, unit)):
        assert found[s.name][nothing] == pytest.approx(0.0, abs=1e-12)
        others = [i for i in range(s.size) if i != nothing]
        assert (found[s.name][others] > 1e-9).all()


def test_the_hessian_score_is_the_squared_slope_of_the_loss_as_a_structure_is_scaled() -> None:
    """L((1 + e) w_S) has the slope sum of w dL/dw over the structure's weights at e = 0."""
    model = network(*MODEL).double()
    found, batch = structures(model), batches(1)[0]
    scores = hessian(model, found, [batch])

    def value() -> float:
        return float(F.cross_entropy(model(batch.inputs)[0].flatten(0, 1), batch.targets.flatten()))

    units, heads = found[1], found[0]
    for s, rows in (
        (units, {"gate_proj": 0, "up_proj": 0, "down_proj": 1}),
        (heads, {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1}),
    ):
        index, losses = 2, []
        for e in (-1e-4, 1e-4):
            for name, dim in rows.items():
                weight = model.get_parameter(f"{s.name}.{name}.weight").movedim(dim, 0)
                width = weight.shape[0] // s.size
                weight[index * width : (index + 1) * width] *= 1 + e
            losses.append(value())
            for name, dim in rows.items():
                weight = model.get_parameter(f"{s.name}.{name}.weight").movedim(dim, 0)
                width = weight.shape[0] // s.size
                weight[index * width : (index + 1) * width] /= 1 + e
        slope = (losses[1] - losses[0]) / 2e-4
        assert float(scores[s.name][index]) == pytest.approx(slope**2, rel=1e-3)


def test_magnitude_is_the_squared_weights_of_all_matrices_of_a_structure() -> None:
    model = network(*MODEL)
    found = structures(model)
    units = magnitude(model, found, [])[found[1].name]
    ffn = model.part("blocks.0.ffn")
    by_hand = (
        ffn.gate_proj.weight.square().sum(1)
        + ffn.up_proj.weight.square().sum(1)
        + ffn.down_proj.weight.square().sum(0)
    )
    torch.testing.assert_close(units, by_hand)


def test_the_greedy_choice_takes_what_is_worth_least_for_what_it_saves() -> None:
    model = network(*MODEL)
    found = structures(model)
    importance = {s.name: torch.full((s.size,), 100.0) for s in found}
    importance[found[3].name][1] = 1.0
    kept = greedy(model.arch, found, importance, flops, flops(model.arch) - 1)
    assert kept == full(found) | {found[3].name: found[3].size - 1}
    everything = greedy(model.arch, found, importance, flops, 0.0)
    assert everything == {s.name: s.kept(0) for s in found}


def test_the_knapsack_is_the_best_pair_of_heads_and_units_within_the_budget() -> None:
    model = network(block(2, 1, 3), block(2, 1, 2))
    found = structures(model)
    generator = torch.Generator().manual_seed(5)
    importance = {s.name: torch.rand(s.size, generator=generator) for s in found}
    budget = 0.55 * flops(sized(model.arch, found, {s.name: s.kept(0) for s in found})) + 0.45 * flops(
        model.arch
    )
    chosen = knapsack(model.arch, found, importance, flops, budget)

    def worth(counts: dict[str, int]) -> float:
        return sum(float(importance[n].sort(descending=True).values[:c].sum()) for n, c in counts.items())

    fitting = [
        dict(zip((s.name for s in found), counts, strict=True))
        for counts in product(*(range(1, s.size + 1) for s in found))
    ]
    best = max(worth(counts) for counts in fitting if flops(sized(model.arch, found, counts)) <= budget)
    assert flops(sized(model.arch, found, chosen)) <= budget
    assert worth(chosen) == pytest.approx(best)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_keeps_the_budget_and_something_of_every_sublayer(method: str) -> None:
    model = network(*MODEL)
    budget = 0.8 * flops(model.arch)
    pruned = METHODS[method](model, flops, budget, batches())
    assert flops(pruned.arch) <= budget
    assert [b.is_active for b in pruned.arch.blocks] == [True, True]
    assert all(s.size >= 1 for s in structures(pruned))


@pytest.mark.slow
def test_the_command_compares_all_methods_at_one_budget_and_writes_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = brought_in("BertForMaskedLM", TEXT, tmp_path), text(tmp_path / "text.txt")
    capsys.readouterr()
    told = ["prune", str(folder), "--data", str(data)]
    assert main([*told, "--max", "flops=85%", "--out", str(tmp_path / "small"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    whole, *rows = found["networks"]
    assert [row["method"] for row in rows] == list(METHODS)
    assert found["budget"]["flops"] == pytest.approx(0.85 * whole["flops"])
    assert all(row["flops"] <= found["budget"]["flops"] for row in rows)
    written = json.loads((tmp_path / "small" / "config.json").read_text(encoding="utf-8"))
    best = min(rows, key=lambda row: row["loss"])
    assert written["arch"]["blocks"] == best["arch"]["blocks"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--max", "loss=2"], "unknown quantity 'loss'"),
        ([], "give one budget"),
        (["--max", "flops=60%", "--max", "memory=1"], "give one budget"),
        (["--max", "flops=60%", "--method", "nvid"], "--method: unknown 'nvid'"),
        (["--max", "flops=few"], "--max flops=few: give a quantity"),
        (["--max", "flops=60%"], "neither a folder of `nas extract` nor of `nas import`"),
    ],
)
def test_what_can_not_be_pruned_is_refused(
    wrong: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", str(tmp_path), *wrong]) == 2
    assert said in capsys.readouterr().err


def test_a_budget_that_nothing_can_keep_is_refused_with_what_is_possible() -> None:
    model = network(*MODEL)
    least = flops(sized(model.arch, structures(model), dict.fromkeys(full(structures(model)), 1)))
    task = load_task("plays", stem=STEM, head=HEAD)
    with pytest.raises(UsageError, match=f"give at least {least:,.6g} "):
        compare(Source("toy", model, task, ""), ["uniform"], flops, least - 1, "flops", lambda step: None)
