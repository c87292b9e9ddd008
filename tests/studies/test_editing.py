"""Renaming, deleting and annotating a study, on each kind of database, and what stays of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studies.editing import annotate_study, delete_study, rename_study
from studies.errors import LeaseLost, StoreError, StudyBusy, StudyExists, UnknownStudy
from studies.queue import Queue
from studies.records import Outcome, Study, Trial
from studies.store import Store


def test_a_renamed_study_is_the_same_under_its_new_name(store: Store, study: Study) -> None:
    store.add_trials(study, [Trial(0, {}, "a0", "complete", {"loss": 1.0})])
    renamed = rename_study(store, study, "better name")
    assert renamed == replace(study, name="better name") == store.study("better name")
    assert [t.arch_id for t in store.trials(renamed)] == ["a0"]
    with pytest.raises(UnknownStudy):
        store.study("tiny")


def test_a_name_that_is_taken_or_none_is_refused(store: Store, study: Study) -> None:
    store.create_study(replace(study, name="other", id=None))
    with pytest.raises(StudyExists, match="'other'"):
        rename_study(store, study, "other")
    for wrong in ("", " tiny", "a\nb", "x" * 81):
        with pytest.raises(StoreError, match="can't name a study"):
            rename_study(store, study, wrong)
    assert store.study("tiny") == study


def test_a_deleted_study_takes_its_trials_along_and_nothing_else(store: Store, study: Study) -> None:
    other = store.create_study(replace(study, name="other", id=None))
    for each in (study, other):
        store.add_trials(each, [Trial(0, {}, "a0"), Trial(1, {}, "a1", "complete")])
    delete_study(store, study)
    assert [s.name for s in store.studies()] == ["other"]
    assert len(store.trials(other)) == 2
    assert store.trials(study) == []
    with pytest.raises(UnknownStudy):
        delete_study(store, study)
    with pytest.raises(LeaseLost):
        store.add_trials(study, [Trial(2, {}, "a2")], owner="a driver that slept")


def test_what_somebody_is_driving_or_evaluating_is_left_alone(store: Store, study: Study) -> None:
    store.add_trials(study, [Trial(0, {}, "a0")])
    store.acquire_lease(study, "driver", 60)
    for change in (lambda: delete_study(store, study), lambda: rename_study(store, study, "new")):
        with pytest.raises(StudyBusy, match="'tiny' is being worked at"):
            change()
    store.release_lease(study, "driver")
    queue = Queue(store, study)
    queue.claim("worker")
    with pytest.raises(StudyBusy):
        delete_study(store, study)
    queue.deliver("worker", Outcome(0, "complete"))
    delete_study(store, study)
    assert store.studies() == []


def test_notes_and_tags_are_replaced_apart(store: Store, study: Study) -> None:
    noted = annotate_study(store, study, notes="seed 3 is the one to keep\n")
    tagged = annotate_study(store, noted, tags=["gpu", " keep ", "gpu"])
    assert tagged == store.study("tiny")
    assert (tagged.notes, tagged.tags) == ("seed 3 is the one to keep\n", ("gpu", "keep"))
    assert annotate_study(store, tagged, tags=[]).tags == store.study("tiny").tags == ()


@pytest.mark.parametrize("tags", [[""], ["x" * 41], ["a\tb"], [str(i) for i in range(21)]])
def test_tags_that_no_list_can_show_are_refused(store: Store, study: Study, tags: list[str]) -> None:
    with pytest.raises(StoreError, match="up to 20 tags"):
        annotate_study(store, study, tags=tags)
    assert store.study("tiny").tags == ()
