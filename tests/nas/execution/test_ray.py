"""Trials in actors of Ray: on this machine, and on a cluster of several nodes that lose one another."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nas import engine
from nas.errors import UsageError
from nas.execution.local import LocalRunner
from nas.execution.runner import Runner
from nas.execution.shipping import moved, pack, unpack
from nas.execution.worker import EvaluatorSpec
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies.records import Outcome, Trial
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.engine.drive import searcher_of

ENCODING = Encoding(toy.space())


def trial(number: int) -> Trial:
    genes = [0] * len(ENCODING)
    genes[0] = number % 4
    arch = ENCODING.decode(tuple(genes))
    return Trial(number, arch.to_json(), arch.id)


def collect(runner: Runner, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        outcomes += runner.wait()
    return sorted(outcomes, key=lambda o: o.number)


def dies_once(arch: ArchSpec, folder: str, always: str) -> dict[str, float]:
    """The first evaluation of every architecture ends its process; each one of the architecture `always`."""
    mark = Path(folder, arch.id)
    if not mark.exists() or arch.id == always:
        mark.touch()
        os._exit(3)
    return toy.judge(arch)


def dying_once(folder: str, always: str = "") -> Any:
    return lambda arch: dies_once(arch, folder, always)


def size_of(folder: str) -> Any:
    """Judges by a file of a folder."""
    size = float(Path(folder, "weights").stat().st_size)
    return lambda arch: {"loss": size, "cost": size}


def test_a_packed_folder_is_the_same_bytes_and_comes_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name / "supernet" for name in "ab"]
    for folder in folders:
        (folder / "deep").mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(range(256)) * 50)
        (folder / "deep" / "settings.json").write_text("{}")
        time.sleep(0.01)
    packed = pack(folders[0])
    assert packed == pack(folders[1])
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "elsewhere"))
    placed = unpack(packed)
    assert placed == unpack(packed)
    assert placed.is_relative_to(tmp_path / "elsewhere")
    files = {str(f.relative_to(placed)): f.read_bytes() for f in placed.rglob("*") if f.is_file()}
    assert files == {"weights": bytes(range(256)) * 50, "deep/settings.json": b"{}"}
    file = unpack(pack(folders[0] / "weights"))
    assert (file.name, file.read_bytes()) == ("weights", files["weights"])
    assert len(list((tmp_path / "elsewhere" / "shipped").iterdir())) == 2


def test_only_the_paths_that_moved_are_replaced_in_settings() -> None:
    settings = {"supernet": "/a", "recipe": {"data": "/b", "steps": 3}, "names": ["/a", "/ab"]}
    expected = {"supernet": "/x", "recipe": {"data": "/y", "steps": 3}, "names": ["/x", "/ab"]}
    assert moved(settings, {"/a": "/x", "/b": "/y"}) == expected
    assert moved(None, {"/a": "/x"}) is None


ray = pytest.importorskip("ray", reason="ray is not installed")
from nas.execution.ray_runner import Cluster, RayRunner  # noqa: E402


@pytest.mark.slow
def test_actors_give_the_values_that_this_process_gives(tmp_path: Path) -> None:
    def search(name: str, runner: Runner) -> list[tuple[str, dict[str, float]]]:
        with closing(Store(f"sqlite:///{tmp_path}/{name}.db")) as store:
            study = store.create_study(toy.study("nsga2", 40))
            with closing(runner):
                engine.run(study, store, searcher_of(study), runner)
            return [(t.arch_id, t.values) for t in store.trials(study)]

    spec = EvaluatorSpec("tests.nas.engine.toy:judge")
    expected = search("local", LocalRunner(toy.judge, toy.OBJECTIVES))
    assert search("ray", RayRunner(spec, toy.OBJECTIVES, Cluster(num_workers=2))) == expected
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_trial_whose_actor_dies_is_tried_again_once(tmp_path: Path) -> None:
    for target, settings, state in (
        ("tests.nas.execution.test_ray:dying_once", {"folder": str(tmp_path)}, "complete"),
        ("tests.nas.engine.toy:evaluator", {"faults": {trial(0).arch_id: "kill"}}, "failed"),
    ):
        with closing(
            RayRunner(EvaluatorSpec(target, settings), toy.OBJECTIVES, Cluster(num_workers=1))
        ) as runner:
            runner.submit(trial(0))
            runner.submit(trial(1))
            first, second = collect(runner, 2)
        assert (first.state, second.state) == (state, "complete")
        assert first.error.startswith("worker died: ") == (state == "failed")


@pytest.mark.slow
def test_a_trial_is_not_blamed_for_the_one_behind_it_that_ends_their_process(tmp_path: Path) -> None:
    """The first dies once; the second, handed out behind it, ends every process as soon as it begins."""
    settings = {"folder": str(tmp_path), "always": trial(1).arch_id}
    spec = EvaluatorSpec("tests.nas.execution.test_ray:dying_once", settings)
    with closing(RayRunner(spec, toy.OBJECTIVES, Cluster(num_workers=1))) as runner:
        for number in range(4):
            runner.submit(trial(number))
        states = [outcome.state for outcome in collect(runner, 4)]
    assert states == ["complete", "failed", "complete", "complete"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("tests.nas.engine.missing:judge", None, "No module named"),
        ("tests.nas.engine.toy:evaluator", {"colour": "blue"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_an_evaluator_that_cannot_start_ends_the_search_with_its_reason(
    target: str, settings: dict[str, Any] | None, message: str
) -> None:
    with closing(
        RayRunner(EvaluatorSpec(target, settings), toy.OBJECTIVES, Cluster(num_workers=1))
    ) as runner:
        runner.submit(trial(0))
        with pytest.raises(UsageError, match=message):
            runner.wait()


@pytest.mark.slow
def test_an_address_where_no_cluster_is_is_one_sentence() -> None:
    spec = EvaluatorSpec("tests.nas.engine.toy:judge")
    with pytest.raises(UsageError, match=r"--address 127\.0\.0\.1:1: no Ray cluster can be used there"):
        RayRunner(spec, toy.OBJECTIVES, Cluster("127.0.0.1:1"))


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle_costs_nothing_but_time(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    others = [nodes.add_node(num_cpus=1) for _ in range(2)]
    events: list[engine.Event] = []

    def on_event(event: engine.Event) -> None:
        events.append(event)
        if len(events) == 20:
            nodes.remove_node(others[0], allow_graceful=False)

    try:
        with closing(Store(f"sqlite:///{tmp_path}/studies.db")) as store:
            study = store.create_study(toy.study("nsga2", 120, lag=8))
            spec = EvaluatorSpec("tests.nas.engine.toy:evaluator", {"sleep_ms": 50})
            with closing(RayRunner(spec, toy.OBJECTIVES, Cluster(nodes.address))) as runner:
                assert runner.capacity == 2 * 3
                engine.run(study, store, searcher_of(study), runner, on_event=on_event)
            trials = store.trials(study)
        assert [(t.number, t.state) for t in trials] == [(n, "complete") for n in range(120)]
        with closing(Store(f"sqlite:///{tmp_path}/alone.db")) as store:
            alone = store.create_study(toy.study("nsga2", 120, lag=8))
            engine.run(alone, store, searcher_of(alone), LocalRunner(toy.judge, toy.OBJECTIVES))
            assert [(t.arch_id, t.values) for t in store.trials(alone)] == [
                (t.arch_id, t.values) for t in trials
            ]
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.slow
def test_what_a_judge_reads_travels_to_other_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "supernet"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w" * 321)
    monkeypatch.setattr("nas.execution.ray_runner.this_host", lambda: "another")
    spec = EvaluatorSpec("tests.nas.execution.test_ray:size_of", {"folder": str(folder)})
    with closing(RayRunner(spec, toy.OBJECTIVES, Cluster(num_workers=1), [str(folder)])) as runner:
        (folder / "weights").unlink()
        runner.submit(trial(0))
        [outcome] = collect(runner, 1)
    assert outcome.values == {"loss": 321.0, "cost": 321.0}
    assert list(Path(os.environ["NAS_HOME"], "shipped").glob("*/supernet/weights"))
