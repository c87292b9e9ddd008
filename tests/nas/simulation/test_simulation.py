"""A table becomes a space that answers for every architecture, and searchers replay on it as an engine runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nas.cli.main import main
from nas.errors import UsageError
from nas.simulation.reference import reference_hypervolume
from nas.simulation.replay import make, replay, volumes
from nas.simulation.table import Table, load_table
from nas.simulation.tabulated import Tabulated, complete, parse_goals
from studies.pareto import hypervolume
from tests.benchmarks.cluster import RECORD_SECONDS, schedule
from tests.nas.simulation import tables


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return load_table(tables.write(tmp_path_factory.mktemp("tables") / "small.csv.gz"))


@pytest.fixture(scope="module")
def problem(table: Table) -> Tabulated:
    return Tabulated(table, parse_goals("loss,cost", table))


def test_a_row_and_its_genome_describe_the_same_architecture(table: Table) -> None:
    encoding = table.encoding
    assert table.genomes.shape[1] == len(encoding)
    for i in range(0, len(table.genomes), 20):
        genome = tuple(table.genomes[i].tolist())
        arch = encoding.decode(genome)
        assert encoding.encode(arch) == genome
        layers = [b for b in arch.blocks if b.is_active]
        values = tables.law(
            arch.d_model,
            [b.mixer["mlp_ratio"] for b in layers],
            [b.mixer["n_head"] for b in layers],
            bool(layers[0].projection["bias"]),
        )
        assert {k: table.quantities[k][i] for k in values} == pytest.approx(values)


def test_the_space_holds_every_combination_of_the_values_that_occur(table: Table) -> None:
    per_layer = len(tables.RATIOS) * len(tables.HEADS)
    assert table.encoding.size() == len(tables.WIDTHS) * 2 * sum(per_layer**d for d in tables.DEPTHS)
    assert set(table.quantities) == {"cost", "loss"}  # a column of words is no quantity


def test_what_the_table_holds_is_answered_by_the_table_and_the_rest_by_the_law(problem: Tabulated) -> None:
    table = problem.table
    np.testing.assert_array_equal(problem.losses(table.genomes)[:, 1], table.quantities["cost"])
    others = problem.encoding.random(300, np.random.default_rng(9))
    expected = []
    for genome in others:
        arch = problem.encoding.decode(tuple(genome.tolist()))
        layers = [b for b in arch.blocks if b.is_active]
        ratios, heads = ([b.mixer[c] for b in layers] for c in ("mlp_ratio", "n_head"))
        values = tables.law(arch.d_model, ratios, heads, bool(layers[0].projection["bias"]))
        expected.append([values["loss"], values["cost"]])
    np.testing.assert_allclose(problem.losses(others), expected, rtol=1e-3)


def test_cross_validation_prefers_products_only_where_they_help_and_states_the_error(
    problem: Tabulated,
) -> None:
    loss, cost = problem.surrogates
    assert loss.held_out.form == "pairwise"
    assert max(loss.held_out.relative_rmse, cost.held_out.relative_rmse) < 1e-3
    assert set(loss.held_out.r2_within) == {str(w) for w in tables.WIDTHS}
    assert min(loss.held_out.r2_within.values()) > 0.99


def test_noise_in_the_table_is_stated_as_error_and_not_fitted(tmp_path: Path) -> None:
    path = tables.write(tmp_path / "noisy.csv", count=600)
    lines = path.read_text().splitlines()
    noise = np.random.default_rng(3)
    noisy = [f"{line.rsplit(',', 1)[0]},{100 + noise.standard_normal()}" for line in lines[1:]]
    path.write_text("\n".join([lines[0], *noisy]) + "\n")
    table = load_table(path)
    held_out = Tabulated(table, parse_goals("loss", table)).surrogates[0].held_out
    assert held_out.relative_rmse == pytest.approx(0.01, rel=0.15)  # one deviation of a hundred
    assert max(held_out.r2_within.values()) < 0.05


def test_more_of_a_quantity_can_be_better(table: Table) -> None:
    least, most = (Tabulated(table, parse_goals(text, table)) for text in ("loss,cost", "loss,cost:max"))
    np.testing.assert_array_equal(least.losses(table.genomes)[:, 1], -most.losses(table.genomes)[:, 1])


def test_hypervolume_is_scaled_by_the_table_below_its_worst_values(problem: Tabulated) -> None:
    low, high = problem.low, problem.high
    assert problem.hypervolume(low[None]) == pytest.approx(1.0)
    assert problem.hypervolume(high[None]) == 0.0
    assert problem.hypervolume((low + high)[None] / 2) == pytest.approx(0.25)


def test_the_reference_is_the_front_of_the_whole_space_where_that_is_small(
    problem: Tabulated, tmp_path: Path
) -> None:
    raw = problem.encoding.canonical(np.array(list(np.ndindex(*problem.encoding.num_values))))
    whole = problem.hypervolume(problem.losses(np.unique(raw, axis=0)))
    found = reference_hypervolume(problem, tmp_path)
    assert 0.999 * whole <= found <= whole * (1 + 1e-12)
    file = next(tmp_path.iterdir())
    file.write_text(json.dumps({**json.loads(file.read_text()), "hypervolume": 0.5}))
    assert reference_hypervolume(problem, tmp_path) == 0.5  # kept, not computed again


def test_a_replay_is_a_function_of_searcher_seed_and_lag(problem: Tabulated) -> None:
    runs = [replay(make("nsga2", problem, s), problem, 60, lag).losses for s, lag in ((0, 4), (0, 4), (1, 4))]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()
    grown = volumes(problem, runs[0], (10, 30, 60))
    assert grown == sorted(grown)
    scaled = (runs[0] - problem.low) / (problem.high - problem.low)
    assert grown[-1] == pytest.approx(hypervolume(scaled, (1.0, 1.0)))


def test_simulated_workers_change_what_a_search_costs_and_not_what_it_finds(problem: Tabulated) -> None:
    expected = replay(make("random", problem, 0), problem, 80, 8).losses
    made, losses = schedule(make("random", problem, 0), problem, 80, 4, 1.0, 8, seed=0)
    np.testing.assert_array_equal(losses, expected)
    assert 0.9 < made.busy_ratio <= 1.0
    assert made.makespan >= 80 / 4 * 0.8


def test_a_driver_slower_than_its_workers_leaves_them_idle_in_proportion(problem: Tabulated) -> None:
    """A trial as long as one proposal keeps one worker busy, whatever their number."""
    made, _ = schedule(make("random", problem, 0), problem, 60, 10, 0.1 * RECORD_SECONDS, 20, seed=0)
    assert made.busy_ratio <= 0.1 / 10 * 1.2


def test_without_lag_only_one_worker_is_busy_at_a_time(problem: Tabulated) -> None:
    made, _ = schedule(make("random", problem, 0), problem, 60, 4, 1.0, 0, seed=0)
    assert made.busy_ratio == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("embed_dim", "width"), "no column embed_dim"),
        (lambda t: "\n".join(t.splitlines()[:5]), "at least 20 rows are needed, it has 4"),
        (lambda t: t.rsplit(",", 1)[0], "number of cells"),
        (lambda t: t.replace("\n64,", "\nwide,", 1), "embed_dim is 'wide'"),
        (lambda t: t.replace("\n64,2,", "\n64,3,", 1), "has 2 layers, n_layer says 3"),
    ],
)
def test_a_table_that_is_not_one_is_refused_with_the_place(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    path = tables.write(tmp_path / "table.csv", count=40)
    path.write_text(change(path.read_text()).replace("\r", ""))
    with pytest.raises(UsageError, match=message):
        load_table(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.csv.gz").write_bytes(b"\x80\x04pickle")
    for name in ("broken.csv.gz", "missing.csv"):
        with pytest.raises(UsageError, match="no readable"):
            load_table(tmp_path / name)


def test_objectives_are_quantities_of_the_table(table: Table) -> None:
    for text in ("loss,latency", "loss:least", "loss,loss", "device", ""):
        with pytest.raises(UsageError, match="--objectives"):
            parse_goals(text, table)


def test_the_command_reports_shares_of_the_reference_and_the_errors_of_its_surrogates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    path = tables.write(tmp_path / "small.csv", count=100)
    arguments = ["simulate", "--table", str(path), "--objectives", "loss,cost", "--searcher", "random,nsga2"]
    arguments += ["--evaluations", "60", "--seeds", "2"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for searcher in ("random", "nsga2"):
        found = report["searchers"][searcher]
        assert found["evaluations"] == [50, 60]
        shares = [s["hypervolume_share"] for s in found["by_seed"]]
        assert found["hypervolume_share"]["median"] == pytest.approx(np.median(shares, axis=0))
        assert 0 < found["hypervolume_share"]["median"][0] <= found["hypervolume_share"]["median"][1] <= 1.01
    assert set(report["surrogates"]) == {"loss", "cost"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seeds", "0"), ("--evaluations", "0"), ("--lag", "-1"), ("--searcher", "magic")],
)
def test_a_wrong_option_is_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    path = tables.write(tmp_path / "small.csv", count=40)
    status = main(["simulate", "--table", str(path), "--objectives", "loss,cost", option, value])
    assert status == 2
    error = capsys.readouterr().err
    assert option in error
    assert value in error


@pytest.mark.parametrize("cell", ["", "nan", "inf", "N/A"])
def test_rows_that_lack_a_quantity_are_left_out_and_counted(
    cell: str, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tables.write(tmp_path / "whole.csv").read_text().splitlines()
    lacking = {i for i in range(1, len(lines)) if i % 9 == 0}
    path = tmp_path / "partial.csv"
    path.write_text(
        "\n".join(
            f"{line.rpartition(',')[0]},{cell}" if i in lacking else line for i, line in enumerate(lines)
        )
    )
    found = load_table(path)
    np.testing.assert_array_equal(found.quantities["cost"], table.quantities["cost"])
    kept, left_out = complete(found, parse_goals("loss,cost", found))
    without = {tuple(g) for g in table.genomes.tolist()} - {tuple(g) for g in kept.genomes.tolist()}
    assert left_out == len(without) > 0
    at = {tuple(g): i for i, g in enumerate(table.genomes.tolist())}
    places = [at[tuple(g)] for g in kept.genomes.tolist()]
    np.testing.assert_allclose(kept.quantities["loss"], table.quantities["loss"][places], rtol=1e-14)
    assert complete(found, parse_goals("cost", found))[1] == 0


def test_too_few_complete_rows_are_refused_with_their_number(tmp_path: Path) -> None:
    lines = tables.write(tmp_path / "whole.csv").read_text().splitlines()
    path = tmp_path / "partial.csv"
    path.write_text(
        "\n".join(f"{line.rpartition(',')[0]}," if i > 5 else line for i, line in enumerate(lines))
    )
    found = load_table(path)
    with pytest.raises(UsageError, match=r"5 architectures .* at least 20"):
        complete(found, parse_goals("loss", found))
