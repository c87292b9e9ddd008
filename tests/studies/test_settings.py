"""What a study was told, in the database's JSON and back; and states, stored as their words."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from studies import tables
from studies.control import change, to_run
from studies.records import Control, Outcome, Study, StudyState, Trial, TrialState
from studies.settings import Baseline, Settings, WarmStart
from studies.store import Store


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings({"space": "tiny-lm"}, "cuda", plain=0),
        Settings(
            {}, "cpu", "a phone", 16, Baseline("a guess", 2.5), WarmStart("earlier", 3), others={"steps": 1}
        ),
    ],
)
def test_settings_come_back_as_they_were(settings: Settings) -> None:
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_settings_of_an_earlier_version_have_defaults_and_keep_what_is_not_known() -> None:
    read = Settings.from_json({"recipe": {"space": "toy"}, "device": "cpu", "workload": [1]})
    assert (read.plain, read.baseline, read.warm_start, read.target) == (None, None, None, "")
    assert read.to_json() == {"recipe": {"space": "toy"}, "device": "cpu", "workload": [1]}


def test_states_are_stored_as_their_words(store: Store, new_study: Study) -> None:
    study = store.create_study(new_study)
    change(store, study, state=StudyState.QUEUED, control=Control.RUN)
    store.add_trials(study, [Trial(0, {}, "a0")], worker="w")
    store.finish_trials(study, [Outcome(0, TrialState.PRUNED)])
    columns = (tables.studies.c.state, tables.studies.c.control, tables.trials.c.state)
    with store.engine.connect() as connection:
        found = [connection.execute(select(column)).scalar_one() for column in columns]
    assert found == ["queued", "run", "pruned"]
    assert {type(word) for word in found} == {str}
    assert [c.name for c in to_run(store)] == [new_study.name]
    assert store.trial(study, 0).state == TrialState.PRUNED
