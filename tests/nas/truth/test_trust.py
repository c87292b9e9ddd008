"""A supernet judged by a table of networks that were trained alone."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nas.cli.main import main
from nas.evaluation.inherited import InheritedQuality
from nas.home import home
from nas.request.recipe import Recipe
from nas.training.checkpoint import supernet_key
from nas.training.supernet_trainer import train_supernet
from searchspace.cost import cost
from searchspace.sampling import sample
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from studies.records import Objective, Study, Trial
from studies.settings import Settings
from studies.store import Store
from studies.truth import TruthRow, append
from tests.nas.training import toy

NETWORKS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trust")


@pytest.fixture(scope="module")
def inherited(folder: Path) -> dict[ArchSpec, float]:
    """What networks inherit from the supernet of study `s` in the database `nas.db` of the folder."""
    task, space = toy.task(folder), toy.space()
    settings = replace(toy.SETTINGS, steps=2)
    recipe = Recipe(
        "toy", data=str(folder / "text.txt"), validation_examples=16, batch_size=8, training=settings
    )
    key = supernet_key(space, task, settings)
    supernet = train_supernet(space, task, settings, home() / "supernets" / key)
    store = Store(f"sqlite:///{folder}/nas.db")
    study = Study(
        name="s",
        space=space.to_json(),
        objectives=(Objective("loss", source="inherited"),),
        searcher="random",
        seed=0,
        lag=1,
        max_trials=1,
        max_seconds=None,
        quality="supernet",
        settings=Settings(recipe.to_json(), "cpu"),
        code_version="test",
    )
    store.set_references(store.create_study(study), supernet=key)
    store.close()
    judged = InheritedQuality.of(supernet, task, recipe.validation_examples, recipe.batch_size)
    archs = sample(Encoding(space), NETWORKS, 0, Workload())
    return {arch: judged(arch)["loss"] for arch in archs}


def trust(table: Path, losses: dict[ArchSpec, float], capsys: pytest.CaptureFixture[str]) -> dict:
    table.mkdir()
    append(
        table / "shard-0.csv",
        [
            TruthRow(arch, "100", 0, cost(arch, Workload()).parameters, 1, loss, 0.5, (loss,), 1.0)
            for arch, loss in losses.items()
        ],
    )
    main(["trust", "s", "--table", str(table), "--db", f"sqlite:///{table.parent}/nas.db", "--json"])
    found: dict = json.loads(capsys.readouterr().out)
    return found


def test_a_table_of_inherited_losses_is_ranked_perfectly_and_its_negative_backwards(
    folder: Path, inherited: dict[ArchSpec, float], capsys: pytest.CaptureFixture[str]
) -> None:
    for sign in (1, -1):
        found = trust(folder / str(sign), {arch: 3 + sign * loss for arch, loss in inherited.items()}, capsys)
        assert found["kendall_inherited_loss"] == pytest.approx(sign)
        interval = found["interval_inherited_loss"]
        assert interval["lower"] == pytest.approx(sign)
        assert interval["upper"] == pytest.approx(sign)
    main(["trust", "s", "--table", str(folder / "1"), "--db", f"sqlite:///{folder}/nas.db"])
    assert "inherited loss 1.000 [1.000, 1.000]" in capsys.readouterr().out


def test_a_table_that_is_not_of_networks_trained_alone_is_refused(
    folder: Path, inherited: dict[ArchSpec, float], capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "other.csv"
    rows = ['"' + json.dumps(a.to_json()).replace('"', '""') + f'",{loss}' for a, loss in inherited.items()]
    table.write_text("\n".join(["arch,loss", *rows]))
    db = f"sqlite:///{folder}/nas.db"
    assert main(["trust", "s", "--table", str(table), "--db", db]) == 2
    assert "name a folder of `nas truth build`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at_an_eighth", "status", "said"),
    [
        (lambda loss: loss + 1.0, 0, "each rung ranks better than the number of parameters"),
        # all alike: there is no tau
        (lambda loss: 2.0, 1, "not known to be better than the number of parameters: eighth"),
        (None, 0, "too few networks"),
    ],
)
def test_a_rung_is_trusted_where_it_is_known_to_rank_better_than_size(
    at_an_eighth: Callable[[float], float] | None,
    status: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The larger a network is here, the worse it is in the end."""
    archs = sample(Encoding(toy.space()), NETWORKS, 0, Workload())
    trials: list[Trial] = []
    for arch in archs:
        loss = 1.0 + cost(arch, Workload()).parameters / 1e6
        if at_an_eighth is not None:
            values = {"loss": at_an_eighth(loss)}
            trials.append(Trial(len(trials), arch.to_json(), arch.id, "pruned", values, fidelity="eighth"))
        trials.append(Trial(len(trials), arch.to_json(), arch.id, "complete", {"loss": loss}))
    db = f"sqlite:///{tmp_path}/nas.db"
    goals = (Objective("loss", source="trained"),)
    with closing(Store(db)) as store:
        study = Study("climbed", toy.space().to_json(), goals, "guided", 0, 1, 2 * NETWORKS, quality="train")
        store.add_trials(store.create_study(study), trials)
    assert main(["trust", "climbed", "--db", db]) == status
    assert said in capsys.readouterr().out
