"""A study that was planned without its data, as the service plans: whoever prepares it makes it whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nas.errors import UsageError
from nas.request.recipe import Recipe
from nas.setup.plan import checked, plan
from nas.setup.preparation import prepare, settings_of
from studies.records import Study, Trial
from studies.store import Store
from tests.nas.training import toy


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    toy.task(tmp_path)
    with closing(Store(f"sqlite:///{tmp_path}/nas.db")) as opened:
        yield opened


def planned(tmp_path: Path, objectives: list[str], **changes: object) -> Study:
    recipe = Recipe("toy", data=str(tmp_path / "text.txt"), searcher="random", quality="train")
    return plan(toy.space(), recipe.changed(**changes), objectives)


def test_it_gets_the_bound_of_the_trivial_answer_and_its_ids_before_its_first_trial(
    store: Store, tmp_path: Path
) -> None:
    expected = checked(planned(tmp_path, ["loss", "parameters"]))
    assert expected.settings.baseline is not None
    assert expected.objectives[0].upper == expected.settings.baseline.loss
    assert expected.settings.recipe["data_id"]
    study = store.create_study(planned(tmp_path, ["loss", "parameters"]))
    judge = prepare(store, study, toy.space(), "cpu", lambda step: None)
    found = store.study("toy")
    assert (found.objectives, found.settings) == (expected.objectives, expected.settings)
    assert judge == settings_of(store, found)
    assert judge["objectives"][0]["upper"] == expected.objectives[0].upper


def test_one_that_has_begun_goes_on_as_it_was(store: Store, tmp_path: Path) -> None:
    study = store.create_study(planned(tmp_path, ["loss", "parameters"]))
    store.add_trials(study, [Trial(0, {}, "a0")])
    prepare(store, study, toy.space(), "cpu", lambda step: None)
    assert store.study("toy") == replace(study, created_at=store.study("toy").created_at)


def test_what_is_refused_here_is_refused_of_it_too(store: Store, tmp_path: Path) -> None:
    """Such as a proxy in the ladder that is not known to rank networks better than their size."""
    study = planned(tmp_path, ["loss", "parameters"], searcher="halving", ladder=("proxy",))
    for refuse in (
        lambda: checked(study),
        lambda: prepare(store, store.create_study(study), toy.space(), "cpu", lambda step: None),
    ):
        with pytest.raises(UsageError, match="--ladder proxy"):
            refuse()


def test_data_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    """Of empty lines alone the trivial answer knows everything."""
    (tmp_path / "text.txt").write_text("\n" * 20_000)
    with pytest.raises(UsageError, match=r"--data .*text\.txt: .* nothing to learn"):
        checked(planned(tmp_path, ["loss", "parameters"]))


def test_a_home_that_can_t_be_written_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = store.create_study(planned(tmp_path, ["loss", "parameters"]))
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "text.txt" / "home"))
    with pytest.raises(UsageError, match=r"NAS_HOME .*text\.txt.home: .*folder that can be written"):
        prepare(store, study, toy.space(), "cpu", lambda step: None)
