"""Importance on objectives whose variance is known decision by decision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies.importance import importance
from studies.records import Objective, Study, Trial
from tests.nas.engine import toy

ENCODING = Encoding(toy.space())
STUDY = Study("s", toy.space().to_json(), (Objective("loss"),), "random", 0, 16, 10)


def trials(judge: Callable[[ArchSpec], float], count: int = 300) -> list[Trial]:
    archs = [ENCODING.decode(tuple(g.tolist())) for g in ENCODING.random(count, np.random.default_rng(0))]
    return [Trial(n, a.to_json(), a.id, "complete", {"loss": judge(a)}) for n, a in enumerate(archs)]


def test_parts_of_the_variance_are_those_of_the_judge() -> None:
    """Width (32 to 128, variance 1280) and depth (1 to 4, variance 1.25) enter additively, with weights 1 and 32."""

    def judge(arch: ArchSpec) -> float:
        return arch.d_model + 32.0 * sum(b.is_active for b in arch.blocks)

    [found] = importance(STUDY, trials(judge))
    expected = 1280 / (1280 + 32**2 * 1.25)
    assert expected == 0.5
    assert found.explained > 0.85
    assert list(found.decisions)[:2] in (["d_model", "stages.0.depth"], ["stages.0.depth", "d_model"])
    assert found.decisions["d_model"] == pytest.approx(expected, abs=0.12)
    assert found.decisions["stages.0.depth"] == pytest.approx(1 - expected, abs=0.12)
    assert sum(part for name, part in found.decisions.items() if "blocks" in name) < 0.05


def test_noise_is_explained_by_nothing() -> None:
    rng = np.random.default_rng(1)
    [found] = importance(STUDY, trials(lambda arch: rng.normal()))
    assert found.explained < 0.1
    assert max(found.decisions.values(), default=0.0) < 0.1


def test_what_never_varies_has_no_importance() -> None:
    [found] = importance(STUDY, trials(lambda arch: 1.0, 30))
    assert (found.explained, found.decisions) == (0.0, {})


def test_few_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="study 's' has 19 complete trials; importance needs at least 20"):
        importance(STUDY, trials(lambda arch: 1.0, 19))
