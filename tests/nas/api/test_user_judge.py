"""A user's own evaluation function is a judge like the built-in ones."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas
from nas.errors import UsageError
from searchspace.spec.arch import ArchSpec


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
