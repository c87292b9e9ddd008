"""Whatever a config says changes what is computed as it does in transformers, or is refused by its key."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas.errors import ArtifactError, UsageError
from nas.importing.load import import_model
from tests.nas.importing.test_families import GPT2, GROUPED, IMAGE, TEXT, output, saved
from tests.nas.importing.test_families import MODELS as FAMILIES

MODELS: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": TEXT,
    "AlbertForMaskedLM": TEXT | {"embedding_size": 16},
    "LlamaForCausalLM": GROUPED,
    "Qwen3ForCausalLM": GROUPED | {"head_dim": 8},
    "GPT2LMHeadModel": GPT2 | {"n_inner": 40},
    "ViTForImageClassification": IMAGE | {"num_labels": 5},
}

ALL_KEYS = MODELS | {
    name: FAMILIES[name]
    for name in (
        "RobertaForSequenceClassification",
        "DistilBertForMaskedLM",
        "ElectraForMaskedLM",
        "MPNetForMaskedLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "GemmaForCausalLM",
        "GraniteForCausalLM",
        "GPTNeoXForCausalLM",
        "OPTForCausalLM",
        "Dinov2Model",
    )
}


def changed(folder: Path, tensors: dict[str, Tensor] | None = None, **config: Any) -> Path:
    """Tensors added or replaced, keys of the config set."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    save_file(load_file(folder / "model.safetensors") | (tensors or {}), folder / "model.safetensors")
    return folder


def _naming(key: str, message: str) -> str:
    return f"{key}: {message}"


def inputs_of(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if name.startswith(("ViT", "Dino")):
        return torch.randn(2, 3, 8, 8, generator=generator)
    return torch.randint(3, 61, (2, 11), generator=generator)


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 or 3
    if isinstance(value, float):
        return value / 2 or 0.25
    if isinstance(value, str):
        return {"gelu": "relu", "gelu_new": "relu", "float32": "float16"}.get(value, f"{value}-other")
    if isinstance(value, list):
        return [*value, "other"]
    return {**value, "rope_theta": 77.0}


@pytest.mark.parametrize("name", ALL_KEYS)
@torch.no_grad()
def test_no_key_is_ignored(name: str, tmp_path: Path):
    """Each is changed in turn: what is still brought in computes what transformers does under the same config."""
    from huggingface_hub.errors import StrictDataclassError

    theirs = saved(name, ALL_KEYS[name], tmp_path / "theirs")
    weights, inputs = theirs.state_dict(), inputs_of(name)
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    num_refused = 0
    for key, value in ((k, v) for k, v in config.items() if v is not None):
        data = config | {key: another(value)}
        path.write_text(json.dumps(data))
        try:
            ours, _ = import_model(tmp_path / "theirs", tmp_path / "ours", overwrite=True)
        except (UsageError, ArtifactError):
            num_refused += 1
            continue
        try:
            made = type(theirs.config).from_dict(data)
        except (ValueError, StrictDataclassError):  # transformers takes it no more
            continue
        model = type(theirs)(made).eval()
        model.load_state_dict(weights, strict=False)
        found, expected = ours.model()(inputs)[0], output(model(inputs))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=partial(_naming, key))
    assert num_refused >= 8
    path.write_text(json.dumps(config | {"of_another_model": 1}))
    with pytest.raises(UsageError, match="of_another_model is 1"):
        import_model(tmp_path / "theirs", tmp_path / "ours", overwrite=True)


@pytest.mark.parametrize("name", MODELS)
def test_heads_that_do_not_fit_the_width_are_refused(name: str, tmp_path: Path):
    saved(name, MODELS[name], tmp_path / "theirs")
    key = "n_head" if name.startswith("GPT2") else "num_attention_heads"
    with pytest.raises(UsageError, match=f"{key} is 5|num_key_value_heads is 2"):
        import_model(changed(tmp_path / "theirs", None, **{key: 5}), tmp_path / "ours")


@torch.no_grad()
def test_old_names_and_a_head_for_sentence_pairs_are_read(tmp_path: Path):
    """As the first BERT checkpoints have them."""
    theirs = saved("BertForPreTraining", TEXT, tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    held = load_file(path)
    for new, old in norms.items():
        held = {n.removesuffix(new) + old if n.endswith(new) else n: t for n, t in held.items()}
    held["bert.embeddings.position_ids"] = torch.arange(32)[None]
    assert any(n.startswith("cls.seq_relationship") for n in held)
    assert any(n.endswith(".gamma") for n in held)
    save_file(held, path)
    inputs = inputs_of("BertForMaskedLM")
    for architecture in ("BertForPreTraining", "BertForMaskedLM"):
        changed(tmp_path / "theirs", architectures=[architecture])
        ours, notes = import_model(tmp_path / "theirs", tmp_path / "ours", overwrite=True)
        assert any("cls.seq_relationship" in note for note in notes)
        expected = theirs(inputs).prediction_logits
        torch.testing.assert_close(ours.model()(inputs)[0], expected, rtol=1e-4, atol=1e-4)
    save_file(held | {"bert.embeddings.LayerNorm.weight": torch.ones(24)}, path)
    with pytest.raises(UsageError, match=r"bert\.embeddings\.LayerNorm\.gamma"):
        import_model(tmp_path / "theirs", tmp_path / "ours", overwrite=True)


@pytest.mark.parametrize("name", [n for n in MODELS if not n.startswith("ViT")])
@torch.no_grad()
def test_a_head_of_its_own_is_used_and_one_that_contradicts_the_config_is_refused(name: str, tmp_path: Path):
    theirs = saved(name, MODELS[name] | {"tie_word_embeddings": False}, tmp_path / "theirs")
    assert not torch.equal(theirs.get_output_embeddings().weight, theirs.get_input_embeddings().weight)
    ours, _ = import_model(tmp_path / "theirs", tmp_path / "ours")
    inputs = inputs_of(name)
    torch.testing.assert_close(ours.model()(inputs)[0], output(theirs(inputs)), rtol=1e-4, atol=1e-4)
    changed(tmp_path / "theirs", tie_word_embeddings=True)
    with pytest.raises(UsageError, match="tie_word_embeddings is True"):
        import_model(tmp_path / "theirs", tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "rows"), [("BertForMaskedLM", "cls.predictions"), ("AlbertForMaskedLM", "predictions")]
)
def test_a_decoder_bias_that_differs_from_the_shared_one_is_refused(name: str, rows: str, tmp_path: Path):
    saved(name, MODELS[name], tmp_path / "theirs")
    shared = load_file(tmp_path / "theirs" / "model.safetensors")[f"{rows}.bias"]
    changed(tmp_path / "theirs", {f"{rows}.decoder.bias": shared.clone()})
    import_model(tmp_path / "theirs", tmp_path / "ours")
    changed(tmp_path / "theirs", {f"{rows}.decoder.bias": shared + 1})
    with pytest.raises(UsageError, match=rf"{rows}\.decoder\.bias differs"):
        import_model(tmp_path / "theirs", tmp_path / "again")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 2,
                }
            },
            "rope_parameters is .* low_freq_factor 1",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "beta_fast": 16}},
            "rope_parameters is .* beta_fast 32",
        ),
        ({"rope_parameters": {"rope_theta": 1e4, "attention_factor": 2.0}}, "rope_parameters is"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ({"rope_theta": 500.0}, "rope_theta is 500.0; .* one base"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight has shape \(12, 24\), its config asks for \(24, 24\)"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures is"),
        ({"sliding_attention": 16}, "sliding_attention is 16"),
    ],
)
def test_a_decoder_that_would_attend_otherwise_is_refused(
    config: dict[str, Any], sentence: str, tmp_path: Path
):
    saved("LlamaForCausalLM", GROUPED, tmp_path / "theirs")
    with pytest.raises(UsageError, match=sentence):
        import_model(changed(tmp_path / "theirs", **config), tmp_path / "ours")
