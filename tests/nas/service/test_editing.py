"""Renaming, deleting and annotating through the service, and what becomes of those who were looking."""

from __future__ import annotations

from contextlib import closing

import pytest

from studies.editing import delete_study
from studies.store import Store
from studies.tokens import create
from tests.nas.service import studies
from tests.nas.service.conftest import admin, bearer, made_app


@pytest.fixture
def own(tmp_path):
    """The database of an application that tests may change, with the study `toy` in it."""
    made = f"sqlite:///{tmp_path}/nas.db"
    studies.add(made, count=12)
    return made


@pytest.fixture
def editor(own):
    with admin(made_app(own)) as client:
        yield client


def test_a_study_is_found_under_its_new_name_alone(editor):
    before = editor.get("studies/toy").json()
    assert editor.put("studies/toy/name", json={"name": "better"}).json() == {**before, "name": "better"}
    assert editor.get("studies/better/results").json()["number"] == list(range(12))
    assert editor.get("studies/toy").status_code == 404
    assert editor.put("studies/toy/name", json={"name": "x"}).status_code == 404


@pytest.mark.parametrize(
    ("name", "status"), [("other", 409), ("", 422), ("a/b", 422), ("a\nb", 422), ("a\u200b", 422)]
)
def test_a_name_that_can_not_be_given_is_refused(editor, own, name, status):
    studies.add(own, name="other", count=2)
    assert editor.put("studies/toy/name", json={"name": name}).status_code == status
    assert editor.get("studies/toy").status_code == 200


def test_notes_and_tags_are_in_the_study_and_tags_in_the_list(editor):
    editor.put("studies/toy/notes", json={"tags": ["gpu", " keep "]})
    found = editor.put("studies/toy/notes", json={"notes": "first\nsecond"}).json()
    assert (found["notes"], found["tags"]) == ("first\nsecond", ["gpu", "keep"])
    assert [s["tags"] for s in editor.get("studies").json()] == [["gpu", "keep"]]
    for wrong in ({"tags": [" "]}, {"tags": ["a\tb"]}, {"tags": ["x"] * 21}, {"notes": "\0"}, {"note": ""}):
        assert editor.put("studies/toy/notes", json=wrong).status_code == 422


def test_a_deleted_study_is_gone_and_its_name_is_free_for_another(editor, own, monkeypatch):
    """The other one has the id of the first on SQLite: nothing of the first may show through."""
    monkeypatch.setattr("nas.service.views.FRESH_SECONDS", 0.0)
    assert editor.get("studies/toy").json()["trials"]["complete"] > 0
    assert editor.delete("studies/toy").status_code == 204
    assert editor.get("studies/toy").status_code == 404
    assert editor.get("studies").json() == []
    studies.add(own, count=3)
    assert editor.get("studies/toy/results").json()["number"] == [0, 1, 2]
    with closing(Store(own)) as store:
        delete_study(store, store.study("toy"))
    studies.add(own, count=5)
    assert editor.get("studies/toy/results").json()["number"] == list(range(5))


def test_a_study_that_is_being_worked_at_is_neither_deleted_nor_renamed(editor, own):
    with closing(Store(own)) as store:
        store.acquire_lease(store.study("toy"), "somebody", 60)
    for answer in (editor.delete("studies/toy"), editor.put("studies/toy/name", json={"name": "new"})):
        assert answer.status_code == 409
        assert "'toy' is being worked at" in answer.json()["detail"]


def test_deleting_needs_an_admin_and_writing_a_runner(editor, own):
    with closing(Store(own)) as store:
        made = {scope: create(store, scope, scope) for scope in ("read", "run", "admin")}
    allowed = {
        scope: [
            editor.put("studies/toy/notes", json={"notes": ""}, headers=headers).status_code == 200,
            editor.put("studies/toy/name", json={"name": "toy"}, headers=headers).status_code == 200,
            editor.delete("studies/toy", headers=headers).status_code == 204,
        ]
        for scope, token in made.items()
        for headers in [bearer(token)]
    }
    assert allowed == {"read": [False] * 3, "run": [True, True, False], "admin": [True] * 3}
