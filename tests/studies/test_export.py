"""What other programs read is what the database has."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from searchspace.spec.genome import Encoding
from studies.export import WRITERS, table, write_csv, write_json, write_parquet
from studies.records import Objective, Study, Trial
from tests.nas.engine import toy

ENCODING = Encoding(toy.space())
STUDY = Study("s", toy.space().to_json(), (Objective("loss"), Objective("cost")), "random", 0, 16, 10)
ARCHS = [ENCODING.decode(tuple(g.tolist())) for g in ENCODING.random(6, np.random.default_rng(0))]
TRIALS = [
    Trial(n, a.to_json(), a.id, "complete", toy.judge(a), origin="random", parents=(0, 1), seconds=0.5)
    for n, a in enumerate(ARCHS[:4])
]
TRIALS.append(Trial(4, ARCHS[4].to_json(), ARCHS[4].id, "infeasible", {"cost": 9.0}, {"cost": 2.0}))
TRIALS.append(
    Trial(5, ARCHS[5].to_json(), ARCHS[5].id, "failed", {"loss": float("nan")}, error="out, of memory")
)


def test_decisions_are_those_of_the_architecture() -> None:
    for row, arch in zip(table(STUDY, TRIALS), ARCHS, strict=True):
        assert row["decision:d_model"] == arch.d_model
        for i, block in enumerate(arch.blocks):
            mixer = row[f"decision:stages.0.blocks.{i}.mixer"]
            assert mixer == (block.mixer.op if block.is_active else None)
            window = row[f"decision:stages.0.blocks.{i}.mixer.attention.window"]
            assert window == (block.mixer["window"] if block.mixer.op == "attention" else None)


def test_csv_has_a_row_for_each_trial_and_nothing_where_there_is_no_value(tmp_path: Path) -> None:
    write_csv(tmp_path / "s.csv", STUDY, TRIALS)
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["number"]) for r in rows] == list(range(6))
    assert [float(r["loss"]) for r in rows[:4]] == [t.values["loss"] for t in TRIALS[:4]]
    assert (rows[4]["loss"], rows[4]["cost"], rows[4]["violation:cost"]) == ("", "9.0", "2.0")
    assert (rows[5]["loss"], rows[5]["error"]) == ("", "out, of memory")
    write_csv(tmp_path / "empty.csv", STUDY, [])
    assert (tmp_path / "empty.csv").read_text().startswith("number,state")


def test_parquet_has_the_rows_of_the_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "s.parquet", STUDY, TRIALS)
    assert parquet.read_table(tmp_path / "s.parquet").to_pylist() == table(STUDY, TRIALS)


def test_without_pyarrow_parquet_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="--format parquet needs the package pyarrow"):
        WRITERS["parquet"](tmp_path / "s.parquet", STUDY, TRIALS)


def test_json_has_the_architectures_and_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "s.json", STUDY, TRIALS)
    found = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    assert found["study"]["space"] == json.loads(json.dumps(STUDY.space))
    assert [t["arch"] for t in found["trials"]] == [json.loads(json.dumps(t.arch)) for t in TRIALS]
    assert found["trials"][5]["values"] == {"loss": None}
