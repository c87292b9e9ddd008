"""A study that an earlier version began goes on with this one as it would have gone on there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import nas

BEGUN = (
    Path(__file__).parents[2] / "data" / "study_of_schema_3.sql"
)  # 30 trials of nsga2 on a space of two blocks
# What the version that began it found in twelve further trials.
WENT_ON = [
    "aed4f63e73158021",
    "3c717d688edb06c0",
    "894a02aaacdb9556",
    "04ed705cc308f47a",
    "7d4b53f3f4de0fde",
    "74b24f6bfbadb754",
    "bfe4d7c0fa22f253",
    "b8300699aba50a47",
    "6d9267608dd5a987",
    "e647a3ae647b39d3",
    "b2e6f9e5f842f202",
    "64a8e7c653a237b3",
]


def test_a_study_of_an_earlier_version_has_the_trajectory_that_it_would_have_had_there(
    tmp_path: Path,
) -> None:
    with closing(sqlite3.connect(tmp_path / "nas.db")) as db:
        db.executescript(BEGUN.read_text(encoding="utf-8"))
    url = f"sqlite:///{tmp_path}/nas.db"
    before = nas.read("small", db=url).trials
    result = nas.resume("small", trials=12, db=url, runner="local")
    assert result.trials[: len(before)] == before
    assert [trial.arch_id for trial in result.trials[len(before) :]] == WENT_ON
