"""What the addresses answer, compared with the store and with brute force."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing

import pytest

from nas.searchers.registry import SEARCHERS
from nas.service.views import StudyViews
from studies.pareto import front, hypervolume
from studies.queue import Queue
from studies.records import Outcome, Trial
from studies.store import Store
from studies.workers import gone, seen
from tests.nas.engine import toy
from tests.nas.service.conftest import admin, made_app

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def stored(url):
    with closing(Store(url)) as store:
        study = store.study("toy")
        return study, store.trials(study)


@pytest.fixture
def fresh(tmp_path):
    """An application over a database of its own."""
    with admin(made_app(f"sqlite:///{tmp_path}/nas.db")) as client:
        yield client


def test_a_study_is_listed_with_its_state_and_counts(client, stored):
    study, trials = stored
    (listed,) = client.get("studies").json()
    assert (listed["name"], listed["state"], listed["max_trials"]) == ("toy", "finished", 60)
    assert listed["trials"] == client.get("studies/toy").json()["trials"]
    assert listed["trials"]["complete"] == sum(t.state == "complete" for t in trials)


def test_the_front_is_that_of_all_trials(client, stored):
    study, trials = stored
    found = client.get("studies/toy/front").json()
    assert [t["number"] for t in found] == [t.number for t in front(trials, study.objectives)]
    assert all(t["arch"] == trials[t["number"]].arch for t in found)


def test_pages_put_together_are_all_trials_in_the_order_asked_for(client, stored):
    _, trials = stored
    seen: list[int] = []
    while page := client.get(f"studies/toy/trials?sort=cost&limit=7&offset={len(seen)}").json()["trials"]:
        seen += [t["number"] for t in page]
    valued = sorted((t for t in trials if "cost" in t.values), key=lambda t: (t.values["cost"], t.number))
    rest = [t.number for t in trials if "cost" not in t.values]
    assert seen == [t.number for t in valued] + rest


def test_filters_leave_what_passes_all_of_them(client, stored):
    _, trials = stored
    limit = sorted(t.values["cost"] for t in trials if t.values)[20]
    query = f"state=complete&at_most=cost:{limit}&at_least=loss:2.0&limit=500"
    found = client.get(f"studies/toy/trials?{query}").json()
    expected = [
        t.number
        for t in trials
        if t.state == "complete" and t.values["cost"] <= limit and t.values["loss"] >= 2.0
    ]
    assert [t["number"] for t in found["trials"]] == expected
    assert found["total"] == len(expected)


def test_a_failed_trial_carries_its_reason(client):
    failed = client.get("studies/toy/trials?state=failed").json()["trials"]
    assert failed
    assert {t["error"] for t in failed} == {"out of memory: no room for <b>the activations</b>"}


def test_columns_hold_every_finished_trial_and_the_position_after_them(client, stored):
    _, trials = stored
    columns = client.get("studies/toy/results").json()
    assert columns["number"] == [t.number for t in trials]
    assert columns["values"]["loss"] == [t.values.get("loss") for t in trials]
    assert columns["position"] == f"{len(trials)}:0"


def test_hypervolume_ends_at_one_and_never_falls(client):
    points = client.get("studies/toy/hypervolume").json()
    shares = [share for _, share in points]
    assert points[-1] == [60, 1.0]
    assert shares == sorted(shares)


def test_a_view_that_grows_trial_by_trial_has_the_front_of_a_view_that_was_read_at_once(tmp_path):
    """Trials finish out of order; the position then names those beyond the first that is missing."""
    with closing(Store(f"sqlite:///{tmp_path}/nas.db")) as store:
        study = store.create_study(toy.study("random", 8))
        store.add_trials(study, [Trial(n, {"blocks": []}, f"a{n}") for n in range(8)], worker="w")
        values = [(5, 1), (4, 2), (6, 6), (1, 5), (2, 2), (4, 1), (3, 3), (9, 0)]
        growing = StudyViews(store)
        for n in (3, 0, 7, 1, 2, 6, 5, 4):
            loss, cost = values[n]
            store.finish_trials(study, [Outcome(n, "complete", {"loss": float(loss), "cost": float(cost)})])
            growing.view("toy").forget_age()
            view = growing.view("toy")
            whole = StudyViews(store).view("toy")
            assert [t.number for t in view.front] == [t.number for t in whole.front]
            assert str(view.position) == str(whole.position)
        assert [t.number for t in view.front] == [3, 4, 5, 7]
        assert hypervolume([(1, 5), (2, 2), (4, 1), (9, 0)], (10, 10)) == 45 + 24 + 6 + 1


def test_a_number_that_is_not_finite_is_null(tmp_path):
    with closing(Store(f"sqlite:///{tmp_path}/nas.db")) as store:
        study = store.create_study(toy.study("random", 1))
        store.add_trials(study, [Trial(0, {"blocks": []}, "a0")], worker="w")
        store.finish_trials(study, [Outcome(0, "failed", {"loss": float("nan"), "cost": 1.0})])
        columns = json.loads(StudyViews(store).view("toy").columns())
        assert columns["values"] == {"loss": [None], "cost": [1.0]}


def test_a_new_study_waits_for_workers_with_the_choices_that_were_kept(fresh):
    body = {
        "name": "narrow",
        "space": "tiny-lm",
        "objectives": ["loss", "memory"],
        "bounds": {"memory": [None, 0.5]},
        "keep": {"mixer": ["softmax_attention", "none"], "d_model": [32, 64]},
        "trials": 7,
        "training_steps": 11,
        "priority": 3,
    }
    made = fresh.post("studies", json=body)
    assert made.status_code == 201, made.text
    assert (made.json()["state"], made.json()["priority"]) == ("queued", 3)
    store = fresh.app.state.store
    study = store.study("narrow")
    assert study.max_trials == 7
    assert study.settings.recipe["training"]["steps"] == 11
    assert study.space["d_model"] == [32, 64]
    ops = {c["op"] for s in study.space["stages"] for b in s["blocks"] for c in b["mixer"]["candidates"]}
    assert ops == {"softmax_attention", "none"}
    assert {"quantity": "memory_bytes", "lower": None, "upper": 500000.0} in study.space["constraints"]
    assert fresh.post("studies", json=body).status_code == 409


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"space": "../../etc/passwd"}, "space '../../etc/passwd': give 1 to 64 letters"),
        ({"space": "nowhere"}, "unknown space 'nowhere'; known: "),
        ({"objectives": ["beauty"]}, "unknown 'beauty'; known: "),
        ({"searcher": "psychic"}, "searcher: unknown 'psychic'; known: "),
        ({"searcher": "halving"}, "searcher halving: needs a ladder"),
        ({"searcher": "gp"}, "searcher gp: suits spaces of at most 20 decisions"),
        ({"searcher": "rvea", "objectives": ["loss"]}, "searcher rvea: needs at least 2 objectives, got 1"),
        ({"keep": {"mixer": ["teleport"]}}, "mixer has no 'teleport'; known: "),
        ({"keep": {"mixer": []}}, "no mixer left"),
        ({"keep": {"code": [1]}}, "unknown 'code'; known: "),
        ({"trials": 0}, "trials 0 should be greater than or equal to 1"),
        ({"quality": "best"}, "quality 'best' should be 'auto', 'supernet', 'train' or 'proxy'"),
        ({"quality": "proxy", "objectives": ["loss"]}, "quality proxy trains nothing"),
        ({"bounds": {"loss": [None, 2]}, "objectives": ["flops"]}, "add it to objectives"),
        ({"bounds": {"flops": [3, 2]}}, "the bounds on flops contradict: at least 3, at most 2"),
        ({"bounds": {"loss!": [1, 2]}}, "bounds loss! 'loss!': give 1 to 64 letters"),
        ({"name": "a/b"}, "name 'a/b': give 1 to 80 printable characters without a slash"),
        ({"name": "../b"}, "the first one no dot"),
        ({"name": None}, "name None should be a valid string"),
        ({"data": "/etc/passwd"}, "data: there is no such field"),
        ({"metric": ["os:getcwd"]}, "metric 0 'os:getcwd': give 1 to 64 letters"),
        ({"objectives": ["os:getcwd"]}, "give 1 to 64 letters"),
        ({"metric": ["los"]}, "metric: unknown 'los'"),
    ],
)
def test_what_can_not_be_done_as_asked_is_refused_with_the_reason(fresh, change, reason):
    answer = fresh.post("studies", json={"name": "s", "space": "tiny-lm"} | change)
    assert answer.status_code == 422
    said = answer.json()["detail"]
    assert reason in said
    assert "--" not in said
    assert "^" not in said
    assert fresh.get("studies").json() == []


@pytest.mark.parametrize("objectives", [["parameters"], ["parameters", "flops"]])
def test_a_searcher_is_offered_where_and_only_where_a_study_can_have_it(fresh, objectives):
    rows = fresh.get(f"spaces/tiny-lm/searchers?objectives={len(objectives)}").json()
    assert {r["name"] for r in rows} == set(SEARCHERS)
    for row in rows:
        body = {"name": row["name"], "space": "tiny-lm", "objectives": objectives, "searcher": row["name"]}
        answer = fresh.post("studies", json=body)
        if row["why_not"] is None:
            assert answer.status_code == 201, answer.text
        else:
            assert answer.status_code == 422
            assert row["why_not"] in answer.json()["detail"]
    assert fresh.get("spaces/nowhere/searchers").status_code == 404


@pytest.mark.parametrize(
    ("method", "address", "options", "status", "reason"),
    [
        ("POST", "studies", {"content": b"{", "headers": JSON}, 422, "the body is not JSON"),
        ("POST", "studies", {}, 422, "the body is missing"),
        ("POST", "studies", {"json": []}, 422, "the body should be"),
        ("POST", "studies", {"json": {}}, 422, "name is missing; space is missing"),
        ("GET", "studies/toy/trials?limit=0", {}, 422, "limit '0' should be greater than or equal to 1"),
        ("GET", "studies/toy/trials?state=lost", {}, 422, "state 0 'lost' should be 'waiting'"),
        ("GET", "studies/toy/trials/none", {}, 422, "number 'none' should be a valid integer"),
        ("GET", "studies/toy/trials?sort=x", {}, 422, "sort: unknown 'x'"),
        ("GET", "nowhere", {}, 404, "no such address"),
        ("DELETE", "about", {}, 405, "Method Not Allowed"),
        ("GET", "studies/nowhere", {}, 404, "there is no study 'nowhere'"),
    ],
)
def test_every_error_is_one_sentence_about_the_fields_of_the_request(
    client, method, address, options, status, reason
):
    answer = client.request(method, address, **options)
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert reason in answer.json()["detail"]


def test_the_document_of_the_api_states_the_one_shape_of_errors(app):
    document = app.openapi()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert document["components"]["schemas"]["Problem"]["properties"]["detail"]["type"] == "string"
    for ways in document["paths"].values():
        for operation in ways.values():
            (answer,) = operation["responses"]["4XX"]["content"].values()
            assert answer["schema"]["$ref"].endswith("/Problem")


def test_pause_continue_and_priority_are_kept(fresh):
    fresh.post("studies", json={"name": "s", "space": "tiny-lm", "objectives": ["parameters", "flops"]})
    for action, status in (("pause", "paused"), ("run", "queued"), ("stop", "stopped")):
        assert fresh.patch("studies/s", json={"action": action}).json()["state"] == status
    changed = fresh.patch("studies/s", json={"priority": 9, "more_trials": 10}).json()
    assert (changed["priority"], changed["max_trials"]) == (9, 250)


def test_a_study_that_is_driven_by_hand_can_be_paused_stopped_and_gone_on_with(fresh):
    store = fresh.app.state.store
    study = store.create_study(toy.study("random", 1, quality="user"))
    assert store.acquire_lease(study, "elsewhere:1:x", 60)
    for action, state in (("pause", "paused"), ("run", "searching"), ("stop", "stopped")):
        assert fresh.patch("studies/toy", json={"action": action}).json()["state"] == state


def test_workers_are_listed_with_their_trials_until_they_leave(fresh):
    store = fresh.app.state.store
    study = store.create_study(toy.study("random", 4))
    store.add_trials(study, [Trial(n, {}, f"a{n}") for n in range(3)])
    seen(store, "w1", "lab", "toy")
    seen(store, "w2", "lab", "")
    for _ in range(2):
        Queue(store, study).claim("w1")
    found = fresh.get("workers").json()
    assert [(w["name"], w["host"], w["study"], w["trial"]) for w in found] == [
        ("w1", "lab", "toy", 0),
        ("w1", "lab", "toy", 1),
        ("w2", "lab", "", None),
    ]
    assert all(0 <= w["last_seen_seconds"] < 60 for w in found)
    gone(store, "w2")
    assert {w["name"] for w in fresh.get("workers").json()} == {"w1"}


def test_nothing_is_cut_out_of_a_study_without_a_supernet(client):
    answer = client.post("studies/toy/extractions", json={"trial": 0})
    assert answer.status_code == 409


def test_the_web_process_loads_no_torch_whatever_is_asked(url):
    """The spaces come from a process of their own."""
    script = """
import sys
from tests.nas.service.conftest import admin, made_app
with admin(made_app(sys.argv[1])) as client:
    for address in ("about", "spaces", "spaces/tiny-lm", "operators", "searchers", "objectives", "studies",
                    "studies/toy", "studies/toy/front", "studies/toy/hypervolume", "measurements", "openapi.json"):
        assert client.get(address).status_code == 200, address
    body = {"name": "s", "space": "tiny-lm", "objectives": ["loss", "latency"], "trials": 5}
    assert client.post("studies", json=body).status_code == 201
assert "torch" not in sys.modules
"""
    copy = url.replace("nas.db", "copy.db")
    with closing(Store(copy)) as store:
        store.create_study(toy.study("random", 1))
    subprocess.run([sys.executable, "-c", script, copy], check=True, timeout=100)
