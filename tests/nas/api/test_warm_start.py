"""A study that learns from an earlier one: it repeats nothing, and a resume is told the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nas
from nas.errors import UsageError
from searchspace.spec.arch import ArchSpec


def judge(arch: ArchSpec) -> dict[str, float]:
    """Two goals that contradict: blocks in use, and a width that is better the larger."""
    blocks = [b for b in arch.blocks if b.is_active]
    held = sum(float(b.ffn.get("ratio", 0)) for b in blocks)
    return {"loss": -arch.d_model * (1 + held), "cost": float(len(blocks) * arch.d_model)}


def search(db: str, study: str, **changes: object) -> nas.Result:
    settings: dict[str, Any] = {"searcher": "guided", "trials": 8, "lag": 2, "seed": 1} | changes
    return nas.search(
        space="tiny-lm", objectives=["loss", "cost"], evaluate=judge, study=study, db=db, **settings
    )


@pytest.fixture
def db(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/nas.db"
    search(url, "earlier", searcher="random", trials=24)
    return url


def archs(result: nas.Result) -> list[str]:
    return [t.arch_id for t in result.trials]


def test_an_earlier_study_is_learnt_from_and_not_repeated(db: str) -> None:
    known = set(archs(nas.read("earlier", db=db)))
    warm = search(db, "warm", warm_start="earlier")
    assert {t.origin for t in warm.trials} <= {"guided", "plain"}
    assert not known & set(archs(warm))
    assert archs(warm) != archs(search(db, "cold"))


def test_a_resume_is_told_the_same_however_the_earlier_study_went_on(db: str) -> None:
    expected = archs(search(db, "at once", warm_start="earlier", trials=12))
    search(db, "later", warm_start="earlier", trials=7)
    nas.resume("earlier", db=db, trials=10, evaluate=judge)
    assert archs(nas.resume("later", db=db, trials=5, evaluate=judge)) == expected


def test_a_study_that_cannot_be_learnt_from_is_refused(db: str) -> None:
    with pytest.raises(UsageError, match=r"^warm_start earlier: only searcher guided learns"):
        search(db, "a", searcher="random", warm_start="earlier")
    with pytest.raises(UsageError, match=r"^warm_start earlier: it has another space or other objectives"):
        nas.search(
            space="tiny-vision",
            objectives=["loss", "cost"],
            evaluate=judge,
            study="b",
            db=db,
            searcher="guided",
            warm_start="earlier",
        )
