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


def sharded(folder: Path, files: dict[str, list[str]], held: dict[str, Tensor]) -> Path:
    """A folder with the named tensors in each file, and the index that says so."""
    written(folder, {})
    (folder / "model.safetensors").unlink()
    for file, names in files.items():
        save_file({n: held[n] for n in names}, folder / file)
    index = {"weight_map": {n: file for file, names in files.items() for n in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def changed_index(folder: Path, **places: str | None) -> None:
    """Other places in the index; with None a tensor is not named."""
    path = folder / "model.safetensors.index.json"
    found = json.loads(path.read_text())["weight_map"] | {k.replace("__", "."): v for k, v in places.items()}
    path.write_text(json.dumps({"weight_map": {name: file for name, file in found.items() if file}}))


def test_only_the_files_that_belong_to_the_model_are_read(tmp_path: Path):
    """What transformers takes: model.safetensors, or what the index names; the others are said to be left out."""
    held = tensors()
    other = {name: tensor + 1 for name, tensor in held.items()}
    whole, notes = import_model(written(tmp_path / "whole", held), tmp_path / "a")
    assert notes == ()
    stray = written(tmp_path / "stray", held)
    save_file(other, stray / "z.safetensors")
    names = sorted(held)
    indexed = sharded(tmp_path / "indexed", {"a.safetensors": names[:5], "b.safetensors": names[5:]}, held)
    save_file(other, indexed / "z.safetensors")
    for folder in (stray, indexed):
        again, notes = import_model(folder, tmp_path / f"ours-{folder.name}")
        assert again.sha256 == whole.sha256
        assert [n for n in notes if "z.safetensors" in n]


def test_files_of_which_it_is_not_certain_whether_they_belong_are_refused(tmp_path: Path):
    held, out = tensors(), tmp_path / "ours"
    names = sorted(held)
    files = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    folder = sharded(tmp_path / "both", files, held)
    save_file(held, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"model\.safetensors and model\.safetensors\.index\.json"):
        import_model(folder, out)
    (folder / "model.safetensors").unlink()
    changed_index(folder, wte__weight=None)
    with pytest.raises(UsageError, match=r"b\.safetensors holds the tensor wte\.weight"):
        import_model(folder, out)
    changed_index(folder, wte__weight="a.safetensors")
    with pytest.raises(UsageError, match=r"a\.safetensors lacks the tensor wte\.weight"):
        import_model(folder, out)
    for elsewhere in ("../both/b.safetensors", "c.safetensors"):
        changed_index(folder, wte__weight=elsewhere)
        with pytest.raises(UsageError, match=elsewhere):
            import_model(folder, out)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UsageError, match=r"a\.safetensors, b\.safetensors: without"):
        import_model(folder, out)
    adapted = written(tmp_path / "adapted", held)
    (adapted / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        import_model(adapted, out)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("h.0.mlp.c_fc.bias", float("nan"), r"h\.0\.mlp\.c_fc\.bias holds NaN"),
        ("wte.weight", float("-inf"), r"wte\.weight holds NaN or infinite"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(name: str, value: float, sentence: str, tmp_path: Path):
    held = tensors()
    held[name].view(-1)[3] = value
    with pytest.raises(UsageError, match=sentence):
        import_model(written(tmp_path / "theirs", held), tmp_path / "ours")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_weights_that_float32_cannot_hold_are_refused(dtype: torch.dtype, tmp_path: Path):
    held = tensors()
    held["wpe.weight"] = torch.full((8, 4), 1e39 if dtype == torch.float64 else 7, dtype=dtype)
    with pytest.raises(UsageError, match=r"tensor wpe\.weight"):
        import_model(written(tmp_path / "theirs", held), tmp_path / "ours")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path):
    held = tensors()
    held["transformer.wte.weight"] = held["wte.weight"] + 1
    with pytest.raises(UsageError, match=r"transformer\.wte\.weight"):
        import_model(written(tmp_path / "theirs", held), tmp_path / "ours")


def test_shards_and_an_old_bin_file_hold_the_same_model(tmp_path: Path):
    held = tensors()
    whole, _ = import_model(written(tmp_path / "whole", held), tmp_path / "a")
    names = sorted(held)
    shards = sharded(tmp_path / "shards", {"a.safetensors": names[:5], "b.safetensors": names[5:]}, held)
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
        ({"wpe.weight": (9, 4)}, {}, r"tensor wpe.weight has shape \(9, 4\), its config asks for \(8, 4\)"),
        ({}, {"n_layer": 2}, r"lacks the tensor h\.1\."),
        ({"h.1.attn.c_proj.bias": (4,)}, {}, r"what the tensor h\.1\.attn\.c_proj\.bias is for"),
        ({"h.0.attn.c_attn.weight": (4, 16)}, {}, r"c_attn\.weight has shape \(4, 16\)"),
        ({}, {"n_head": 3}, "n_head is 3; the importer takes a divisor of n_embd 4"),
        ({}, {"n_inner": 8}, r"c_fc\.weight has shape \(4, 16\), its config asks for \(4, 8\)"),
        ({}, {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({}, {"auto_map": {"AutoModel": "theirs.Model"}}, "auto_map is"),
        ({}, {"attention_temperature": 2.0}, "attention_temperature is 2.0"),
        ({}, {"architectures": ["GPT2Model"]}, r"architectures is \['GPT2Model'\]"),
        ({}, {"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon is inf"),
        ({}, {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        ({"lm_head.weight": (7, 4)}, {}, r"tie_word_embeddings .* lm_head\.weight differs from wte\.weight"),
        ({}, {"tie_word_embeddings": False}, r"lacks the tensor lm_head\.weight"),
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
