"""A user's own evaluation function is a judge like the built-in ones."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import pytest

import nas
from nas.errors import UsageError
from nas.execution.outcome import Evaluate
from searchspace.spec.arch import ArchSpec
from studies.records import Objective


def active_blocks(arch: ArchSpec) -> dict[str, float]:
    """Blocks in use, and twice the width: two goals that contradict through nothing but the space."""
    return {"blocks": float(sum(b.is_active for b in arch.blocks)), "width": -2.0 * arch.d_model}


def sometimes_broken(arch: ArchSpec) -> dict[str, float]:
    if arch.d_model == 48:
        raise MemoryError("no room for 48")
    return {"blocks": float("nan") if arch.d_model == 64 else 1.0}


@pytest.fixture
def db(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/nas.db"


@pytest.mark.parametrize("runner", ["local", "pool"])
def test_a_study_judged_by_the_users_function_is_stored_and_goes_on(runner: str, db: str) -> None:
    result = nas.search(
        space="tiny-lm",
        objectives=["blocks", "width"],
        evaluate=active_blocks,
        db=db,
        trials=20,
        runner=runner,
    )
    assert [t.state for t in result.trials] == ["complete"] * 20
    for trial in result.trials:
        assert trial.values == active_blocks(ArchSpec.from_json(trial.arch))
    with pytest.raises(UsageError, match="evaluate="):
        nas.resume("tiny-lm", db=db, trials=5)
    more = nas.resume("tiny-lm", db=db, trials=5, evaluate=active_blocks)
    assert len(more.trials) == 25
    assert more.trials[:20] == result.trials


def test_failing_trials_keep_their_reason_and_the_study_goes_on(db: str) -> None:
    result = nas.search(
        space="tiny-lm", objectives=["blocks"], evaluate=sometimes_broken, db=db, trials=30, searcher="random"
    )
    reasons = {t.arch["d_model"]: (t.state, t.error) for t in result.trials}
    assert reasons[48] == ("failed", "out of memory: no room for 48")
    assert reasons[64] == ("failed", "blocks is nan")
    assert reasons[32] == ("complete", "")
    assert all(t.arch["d_model"] == 32 for t in result.front)


def always_broken(arch: ArchSpec) -> dict[str, float]:
    raise TypeError("no such layer")


def test_a_study_without_a_complete_trial_says_so_and_why(db: str) -> None:
    with pytest.warns(UserWarning, match="4 failed; 0 on the front>; the last failed with: .*no such layer"):
        nas.search(space="tiny-lm", objectives=["blocks"], evaluate=always_broken, db=db, trials=4)


@pytest.mark.parametrize("direction", ["min", "max", "Minimize", "up", ""])
def test_a_direction_other_than_the_two_words_is_refused(direction: str) -> None:
    with pytest.raises(ValueError, match="minimize, maximize"):
        Objective("blocks", direction=direction)


@pytest.mark.parametrize(
    ("lower", "upper"), [(2.0, 1.0), (float("nan"), None), (None, float("inf")), (None, "3")]
)
def test_an_objective_with_bounds_that_cannot_be_is_refused(lower: float | None, upper: float | None) -> None:
    with pytest.raises(ValueError, match="blocks"):
        Objective("blocks", lower=lower, upper=upper)


def test_what_is_to_be_maximized_is_at_its_largest_on_the_front(db: str) -> None:
    goal = Objective("blocks", direction="maximize")
    result = nas.search(
        space="tiny-lm", objectives=[goal], evaluate=active_blocks, db=db, trials=30, searcher="random"
    )
    assert result.front[0].values["blocks"] == max(t.values["blocks"] for t in result.trials)
    least = nas.search(
        space="tiny-lm",
        objectives=["blocks"],
        evaluate=active_blocks,
        db=db,
        trials=30,
        searcher="random",
        study="least",
    )
    assert least.front[0].values["blocks"] == min(t.values["blocks"] for t in least.trials)


@pytest.mark.parametrize("runner", ["local", "pool"])
def test_a_bound_on_what_the_judge_returns_beside_its_objectives_is_kept(runner: str, db: str) -> None:
    result = nas.search(
        space="tiny-lm",
        objectives=["blocks"],
        bounds={"width": (None, -90.0)},
        evaluate=active_blocks,
        db=db,
        trials=20,
        searcher="random",
        runner=runner,
    )
    for trial in result.trials:
        missed = max(0.0, trial.values["width"] + 90.0)
        assert trial.violations == ({"width": missed} if missed else {})
        assert trial.state == ("infeasible" if missed else "complete")
    assert {t.state for t in result.trials} == {"infeasible", "complete"}


def test_a_bound_on_an_objective_given_as_one_is_kept(db: str) -> None:
    result = nas.search(
        space="tiny-lm",
        objectives=[Objective("blocks")],
        bounds={"blocks": (None, 2.0)},
        evaluate=active_blocks,
        db=db,
        trials=20,
        searcher="random",
    )
    assert all((t.state == "complete") == (t.values["blocks"] <= 2) for t in result.trials)


def test_a_bound_on_what_the_judge_does_not_return_says_so(db: str) -> None:
    with pytest.warns(UserWarning, match="no 'size'"):
        nas.search(
            space="tiny-lm",
            objectives=["blocks"],
            bounds={"size": (None, 1.0)},
            evaluate=active_blocks,
            db=db,
            trials=2,
        )


def says_half_a_pair(arch: ArchSpec) -> dict[str, float]:
    if arch.d_model == 48:
        raise RuntimeError("bytes \udce9 and \0")
    return {"blocks": 1.0}


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raises_the_unspeakable(arch: ArchSpec) -> dict[str, float]:
    if arch.d_model == 48:
        raise Unspeakable
    return {"blocks": 1.0}


@pytest.mark.parametrize("runner", ["local", "pool"])
@pytest.mark.parametrize(
    ("judge", "kept"), [(says_half_a_pair, r"bytes \udce9 and \x00"), (raises_the_unspeakable, "Unspeakable")]
)
def test_an_error_in_any_text_is_kept_and_the_search_goes_on(
    judge: Evaluate, kept: str, runner: str, db: str
) -> None:
    result = nas.search(
        space="tiny-lm",
        objectives=["blocks"],
        evaluate=judge,
        db=db,
        trials=20,
        searcher="random",
        runner=runner,
        workers=2 if runner == "pool" else 0,
    )
    failed = [t for t in result.trials if t.state == "failed"]
    assert failed
    assert all(kept in t.error for t in failed)
    assert len(result.trials) == 20
    assert len(nas.resume("tiny-lm", db=db, trials=2, evaluate=judge).trials) == 22


@pytest.mark.parametrize(
    ("evaluate", "runner"),
    [(lambda arch: {"blocks": 1.0}, "pool"), (partial(active_blocks), "pool"), ("active_blocks", "local")],
)
def test_a_judge_that_cannot_start_leaves_no_study_behind(evaluate: Evaluate, runner: str, db: str) -> None:
    with pytest.raises(UsageError, match="evaluate"):
        nas.search(space="tiny-lm", objectives=["blocks"], evaluate=evaluate, db=db, trials=2, runner=runner)
    result = nas.search(space="tiny-lm", objectives=["blocks"], evaluate=active_blocks, db=db, trials=2)
    assert len(result.trials) == 2


def test_a_judge_that_dies_as_it_starts_leaves_no_study_behind(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying_judge.py").write_text(
        "import multiprocessing\n"
        "if multiprocessing.parent_process(): raise OSError('not here')\n"
        "def judge(arch): return {'blocks': 1.0}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    judge = importlib.import_module("dying_judge").judge
    with pytest.raises(UsageError, match="not here"):
        nas.search(
            space="tiny-lm",
            objectives=["blocks"],
            evaluate=judge,
            db=db,
            trials=2,
            runner="pool",
            workers=1,
        )
    assert nas.search(space="tiny-lm", objectives=["blocks"], evaluate=active_blocks, db=db, trials=2).front
