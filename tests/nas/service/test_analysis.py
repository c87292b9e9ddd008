"""What the service tells and gives of a study: the same as the functions that the command line uses."""

from __future__ import annotations

import csv
import io
from contextlib import closing

import pytest

from nas.execution.lease import Lease
from nas.service.analysis import Weights
from searchspace.spec.genome import Encoding
from searchspace.spec.handmade import PLAIN
from searchspace.spec.space import SpaceSpec
from studies.comparison import compare
from studies.export import decisions, table
from studies.importance import importance
from studies.pareto import front, knee, losses
from studies.records import Objective, Outcome, Trial
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.service import studies
from tests.nas.service.conftest import admin, made_app


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A database with two studies."""
    made = f"sqlite:///{tmp_path_factory.mktemp('analysis')}/nas.db"
    studies.add(made)
    studies.add(made, name="shorter", count=15)
    return made


@pytest.fixture(scope="module")
def client(two):
    return admin(made_app(two))


@pytest.fixture(scope="module")
def stored(two):
    with closing(Store(two)) as store:
        return {
            name: (study, store.trials(study)) for name in ("toy", "shorter") for study in [store.study(name)]
        }


def test_the_knee_is_that_of_the_front(client, stored):
    study, trials = stored["toy"]
    best = front(trials, study.objectives)
    expected = best[knee(losses(best, study.objectives))].number
    assert client.get("studies/toy/results").json()["knee"] == expected


def test_importance_is_that_of_the_command_line_and_kept(client, stored, monkeypatch):
    expected = [vars(found) for found in importance(*stored["toy"])]
    assert client.get("studies/toy/importance").json() == expected
    monkeypatch.setattr(Weights, "_compute", None)
    assert client.get("studies/toy/importance").json() == expected


def test_importance_of_few_trials_says_how_many_it_takes(client, stored):
    answer = client.get("studies/shorter/importance")
    assert answer.status_code == 409
    assert "at least 20" in answer.json()["detail"]


def test_two_studies_are_compared_as_on_the_command_line(client, stored):
    expected = compare(*zip(*stored.values(), strict=True))
    found = client.get("studies/toy/comparison?other=shorter").json()
    assert found["studies"] == [side.to_json() for side in expected.sides]
    assert (found["at"], found["reference"]) == (expected.at, expected.reference)
    assert [o["name"] for o in found["objectives"]] == ["loss", "cost"]
    assert client.get("studies/toy/comparison?other=nobody").status_code == 404


def test_the_csv_holds_what_nas_export_writes(client, stored, monkeypatch):
    monkeypatch.setattr("nas.service.downloads.AT_ONCE", 7)
    answer = client.get("studies/toy/trials.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="toy.csv"'
    expected = [{n: "" if v is None else str(v) for n, v in row.items()} for row in table(*stored["toy"])]
    assert list(csv.DictReader(io.StringIO(answer.text))) == expected


def test_the_report_is_one_file_with_every_trial(client):
    answer = client.get("studies/toy/report")
    assert answer.headers["content-disposition"] == 'attachment; filename="toy.html"'
    assert '"number":[' + ",".join(map(str, range(60))) + "]" in answer.text


def test_the_decisions_of_trials_are_those_of_their_architectures(client, stored):
    study, trials = stored["toy"]
    encoding = Encoding(SpaceSpec.from_json(study.space))
    found = client.get("studies/toy/decisions?number=3&number=8&number=999").json()
    expected = {str(n): decisions(encoding, trials[n]) for n in (3, 8)}
    assert found["rows"] == {n: list(row.values()) for n, row in expected.items()}
    assert found["names"] == list(expected["3"])


def test_what_was_found_stands_beside_the_plain_networks(tmp_path):
    url = f"sqlite:///{tmp_path}/nas.db"
    goals = (
        Objective("loss", source="trained", unit="nats"),
        Objective("latency", source="predicted", unit="ms"),
    )
    with closing(Store(url)) as store:
        study = store.create_study(toy.study("random", 3, objectives=goals))
        made = [(PLAIN, 2.0, 8.0), ("guided", 2.0, 4.0), ("guided", 1.5, 8.0)]
        trials = [Trial(n, {}, f"a{n}", origin=origin) for n, (origin, _, _) in enumerate(made)]
        with Lease(store, study) as lease:
            store.add_trials(study, trials, owner=lease.owner)
            found = [Outcome(n, "complete", {"loss": q, "latency": c}) for n, (_, q, c) in enumerate(made)]
            store.finish_trials(study, found, None, owner=lease.owner)
    told = admin(made_app(url)).get("studies/toy/worth").json()
    (row,) = told["rows"]
    assert (row["plain"]["number"], row["cheaper"]["number"], row["better"]["number"]) == (0, 1, 2)
    assert row["ratio"] == [2.0, 2.0, 2.0]
    assert "2.00 times" in told["sentence"]


def test_a_study_without_quality_beside_a_cost_has_nothing_to_compare(client):
    assert client.get("studies/toy/worth").json() is None
