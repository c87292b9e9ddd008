"""What the page and the report are told of a study."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from nas.cli.main import main
from nas.presentation.study import columns
from searchspace.spec.handmade import PLAIN
from studies.pareto import front, knee, losses
from studies.records import Objective, Study, Trial, TrialState
from studies.store import Store
from studies.worth import handed_over

OBJECTIVES = (Objective("loss", source="trained"), Objective("latency", source="predicted"))


def test_the_knee_that_is_shown_is_the_network_that_is_handed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain network at the bend of the front needs no search: the knee is that of what was found."""
    values = ((0.5, 3.0, "guided"), (0.9, 1.2, "guided"), (1.0, 1.0, PLAIN), (3.0, 0.5, "guided"))
    trials = [
        Trial(i, {}, f"a{i}", TrialState.COMPLETE, {"loss": loss, "latency": latency}, origin=origin)
        for i, (loss, latency, origin) in enumerate(values)
    ]
    study = Study("s", {"name": "toy"}, OBJECTIVES, "guided", 0, 4, 4)
    best = front(trials, OBJECTIVES)
    assert best[knee(losses(best, OBJECTIVES))].origin == PLAIN
    chosen = handed_over(study, trials, best)
    assert chosen is not None
    assert (chosen.number, columns(study, trials, best)["knee"]) == (1, 1)
    with closing(Store(f"sqlite:///{tmp_path}/nas.db")) as store:
        store.add_trials(store.create_study(study), trials)
    assert main(["studies", "show", "s", "--db", f"sqlite:///{tmp_path}/nas.db", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["knee"]["trial"] == 1
