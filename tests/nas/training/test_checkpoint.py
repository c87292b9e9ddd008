"""Checkpoints and finished supernets on disk."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from nas.errors import ArtifactError
from nas.training.checkpoint import fill, load_supernet, supernet_key
from nas.training.supernet_trainer import SupernetTrainer, train_supernet
from searchspace.supernet.supernet import Supernet
from tests.nas.training import toy


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The folder of a training that stopped after two steps."""
    trainer = SupernetTrainer(toy.space(), toy.task(tmp_path), toy.SETTINGS, tmp_path / "supernet")
    trainer.step()
    trainer.step()
    trainer.save()
    return tmp_path


def resumed(folder: Path, learning_rate: float = toy.SETTINGS.learning_rate) -> SupernetTrainer:
    settings = dataclasses.replace(toy.SETTINGS, learning_rate=learning_rate)
    return SupernetTrainer(toy.space(), toy.task(folder), settings, folder / "supernet")


def test_a_checkpoint_restores_state_weights_and_moments(interrupted: Path) -> None:
    fresh = SupernetTrainer(toy.space(), toy.task(interrupted), toy.SETTINGS, interrupted / "other")
    fresh.step()
    fresh.step()
    found = resumed(interrupted)
    assert found.state == fresh.state
    for name, tensor in fresh.supernet.tensors.items():
        assert torch.equal(found.supernet.tensors[name], tensor)
        for key, value in fresh.optimizer.state[tensor].items():
            assert torch.equal(found.optimizer.state[found.supernet.tensors[name]][key], value)


def test_a_truncated_tensor_file_is_refused_by_name(interrupted: Path) -> None:
    path = interrupted / "supernet/checkpoint/step-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"step-2\.safetensors is damaged.*delete .*checkpoint to train"):
        resumed(interrupted)


def test_a_missing_tensor_file_is_refused_by_name(interrupted: Path) -> None:
    (interrupted / "supernet/checkpoint/step-2.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"step-2\.safetensors can't be read.*delete"):
        resumed(interrupted)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_state_that_is_no_json_table_is_refused_by_name(interrupted: Path, content: str) -> None:
    (interrupted / "supernet/checkpoint/state.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"state\.json.*delete .*checkpoint to train again"):
        resumed(interrupted)


def test_a_checkpoint_of_other_settings_is_refused_with_the_setting(interrupted: Path) -> None:
    with pytest.raises(ArtifactError, match=r"settings\.learning_rate is 0\.03 there and 0\.5 here"):
        resumed(interrupted, learning_rate=0.5)


def test_a_checkpoint_of_another_space_is_refused(interrupted: Path) -> None:
    space = dataclasses.replace(toy.space(), version=2)
    with pytest.raises(ArtifactError, match=r"space\.version is 1 there and 2 here"):
        SupernetTrainer(space, toy.task(interrupted), toy.SETTINGS, interrupted / "supernet")


def test_a_write_that_was_cut_off_leaves_the_checkpoint_readable(interrupted: Path) -> None:
    folder = interrupted / "supernet/checkpoint"
    (folder / "step-9.safetensors.unfinished").write_bytes(b"half")
    (folder / "step-9.safetensors").write_bytes(b"named by no state")
    trainer = resumed(interrupted)
    assert trainer.state.step == 2
    trainer.step()
    trainer.save()
    assert sorted(p.name for p in folder.iterdir()) == ["state.json", "step-3.safetensors"]


def test_a_finished_supernet_is_kept_without_its_checkpoint_and_loads_equal(tmp_path: Path) -> None:
    settings = dataclasses.replace(toy.SETTINGS, steps=3)
    folder = tmp_path / "supernet"
    trained = train_supernet(toy.space(), toy.task(tmp_path), settings, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["supernet.json", "weights.safetensors"]
    found = load_supernet(folder)
    assert found.space == toy.space()
    assert all(torch.equal(found.tensors[n], t) for n, t in trained.tensors.items())
    kept = json.loads((folder / "supernet.json").read_text())
    assert kept["key"] == supernet_key(toy.space(), toy.task(tmp_path), settings)
    assert {"largest", "smallest", "split_bigram_entropy"} <= kept["losses"].keys()


def test_a_damaged_or_missing_supernet_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no finished supernet"):
        load_supernet(tmp_path)
    folder = tmp_path / "supernet"
    train_supernet(toy.space(), toy.task(tmp_path), dataclasses.replace(toy.SETTINGS, steps=1), folder)
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors is damaged"):
        load_supernet(folder)


def test_the_key_changes_with_space_data_and_settings(tmp_path: Path) -> None:
    space, task = toy.space(), toy.task(tmp_path)
    other_text = tmp_path / "other"
    other_text.mkdir()
    other = dataclasses.replace(task, held_out=(task.held_out[0].flip(0),))
    keys = [
        supernet_key(space, task, toy.SETTINGS),
        supernet_key(dataclasses.replace(space, version=2), task, toy.SETTINGS),
        supernet_key(space, other, toy.SETTINGS),
        supernet_key(space, task, dataclasses.replace(toy.SETTINGS, seed=4)),
    ]
    assert len(set(keys)) == 4
    assert keys[0] == supernet_key(toy.space(), toy.task(tmp_path), toy.SETTINGS)


def test_weights_of_another_version_are_refused_and_not_filled_in(tmp_path: Path) -> None:
    """Such as those from before an operator had a tensor: a study must not be judged by two supernets."""
    supernet = Supernet(toy.space())
    name = min(supernet.tensors)
    weights = {n: t for n, t in supernet.tensors.items() if n != name}
    with pytest.raises(
        ArtifactError, match=rf"{name} is not known there.* can't be resumed with this version"
    ):
        fill(supernet, weights, tmp_path / "weights.safetensors")
    with pytest.raises(ArtifactError, match=r"extra is of shape .* there and not known in the supernet"):
        fill(supernet, {**supernet.tensors, "extra": torch.ones(2)}, tmp_path / "weights.safetensors")
