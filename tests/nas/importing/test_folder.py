"""What `nas import` reads and refuses: files of others are data, and what is wrong with them is one sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.cli.main import main
from nas.errors import ArtifactError, UsageError
from nas.importing.load import import_model

CONFIG = {"model_type": "gpt2", "vocab_size": 7, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 8}


def tensors() -> dict[str, Tensor]:
    """Of a GPT-2 of one block."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (7, 4), "wpe.weight": (8, 4)}
    norms = {"ln_f": (4,), "h.0.ln_1": (4,), "h.0.ln_2": (4,)}
    maps = {"attn.c_attn": (4, 12), "attn.c_proj": (4, 4), "mlp.c_fc": (4, 16), "mlp.c_proj": (16, 4)}
    for name, shape in [*norms.items(), *((f"h.0.{n}", s) for n, s in maps.items())]:
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def written(folder: Path, held: dict[str, Tensor], **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file(held, folder / "model.safetensors")
    return folder


def test_shards_and_an_old_bin_file_hold_the_same_model(tmp_path: Path):
    held = tensors()
    whole, _ = import_model(written(tmp_path / "whole", held), tmp_path / "a")
    names = sorted(held)
    shards = written(tmp_path / "shards", {n: held[n] for n in names[:5]})
    save_file({n: held[n] for n in names[5:]}, shards / "model-2.safetensors")
    old = written(tmp_path / "old", held)
    (old / "model.safetensors").unlink()
    torch.save(held, old / "pytorch_model.bin")
    for folder in (shards, old):
        again, _ = import_model(folder, tmp_path / f"ours-{folder.name}")
        assert again.sha256 == whole.sha256


def test_a_bin_file_that_holds_more_than_tensors_is_refused(tmp_path: Path):
    folder = written(tmp_path / "theirs", {})
    (folder / "model.safetensors").unlink()
    torch.save({"x": Path("/")}, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="its weights can't be read"):
        import_model(folder, tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "config", "sentence"),
    [
        ({"h.0.adapter.weight": (2, 2)}, {}, "does not know what the tensor h.0.adapter.weight is for"),
        ({"wpe.weight": (9, 4)}, {}, r"tensor position.weight has shape \(9, 4\), the model has \(8, 4\)"),
        ({}, {"n_layer": 2}, r"lacks the tensor h\.1\."),
        ({}, {"n_layer": "2"}, "n_layer is '2'; the importer takes a positive whole number"),
        ({}, {"activation_function": "swish"}, "activation_function is 'swish'"),
    ],
)
def test_what_does_not_fit_is_named(
    change: dict[str, tuple[int, ...]], config: dict[str, object], sentence: str, tmp_path: Path
):
    held = tensors() | {name: torch.randn(shape) for name, shape in change.items()}
    with pytest.raises((UsageError, ArtifactError), match=sentence):
        import_model(written(tmp_path / "theirs", held, **config), tmp_path / "ours")


def test_the_command_says_what_it_brought_in_and_spares_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, out = str(written(tmp_path / "theirs", tensors())), str(tmp_path / "ours")
    assert main(["import", path, "--out", out]) == 0
    assert "nas search --model" in capsys.readouterr().out
    assert main(["import", path, "--out", out]) == 2
    assert f"--out {out}: the folder is not empty" in capsys.readouterr().err
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert "config.json" in capsys.readouterr().err


def test_recovery_without_a_model_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["search", "--space", "tiny-lm", "--recovery-steps", "5"]) == 2
    assert "--recovery-steps 5" in capsys.readouterr().err
