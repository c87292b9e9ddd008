"""The numbers of a model are written one tensor after the other, in the type that they have."""

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas.importing.load import import_model
from nas.importing.storage import hash_of, write_tensors
from nas.importing.weights import Part
from tests.nas.importing.test_folder import tensors, written


def test_a_file_holds_what_safetensors_reads_and_no_two_tensors_are_in_memory_at_once(tmp_path: Path):
    made = {
        "b": torch.randn(3, 5).bfloat16(),
        "a": torch.randn(2, 2, 2),
        "c": torch.randn(7).half(),
        "transposed": torch.randn(4, 3).T,
    }
    alive: list[weakref.ref[Tensor]] = []

    def load(name: str) -> Tensor:
        assert not any(ref() is not None for ref in alive)
        found = made[name].clone()
        alive.append(weakref.ref(found))
        return found

    parts = {n: Part(tuple(t.shape), t.dtype, lambda n=n: load(n)) for n, t in made.items()}  # type: ignore[misc]
    digest = write_tensors(tmp_path / "x.safetensors", parts)
    assert digest == hash_of(tmp_path / "x.safetensors")
    held = load_file(tmp_path / "x.safetensors")
    assert held.keys() == made.keys()
    for name, tensor in made.items():
        assert held[name].dtype == tensor.dtype
        assert torch.equal(held[name], tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_short_numbers_stay_short_in_the_folder_and_are_computed_in_float32(
    dtype: torch.dtype, tmp_path: Path
):
    short = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    ours, _ = import_model(written(tmp_path / "short", short), tmp_path / "ours")
    assert {t.dtype for t in ours.tensors.values()} == {dtype}
    wide = {name: tensor.float() for name, tensor in short.items()}
    theirs, _ = import_model(written(tmp_path / "wide", wide), tmp_path / "theirs")
    inputs = torch.randint(0, 7, (2, 6))
    assert torch.equal(ours.model()(inputs)[0], theirs.model()(inputs)[0])


def test_numbers_of_an_unknown_type_are_refused(tmp_path: Path):
    from nas.errors import UsageError

    held = tensors()
    held["wpe.weight"] = held["wpe.weight"].to(torch.float8_e4m3fn)
    folder = written(tmp_path / "theirs", {})
    save_file(held, folder / "model.safetensors")
    with pytest.raises(UsageError, match="numbers of the type 'F8_E4M3'"):
        import_model(folder, tmp_path / "ours")
