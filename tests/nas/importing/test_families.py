"""A model that is brought in computes what transformers computes: tiny models with random weights of every family."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.errors import UsageError
from nas.importing.load import Imported, import_model
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.genome import Encoding
from searchspace.supernet.importance import CHANNELS, ordered, saliency
from searchspace.supernet.supernet import Supernet

TEXT = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"intermediate_size": 40, "max_position_embeddings": 32}
GROUPED = TEXT | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32}
GPT_NEO = {"vocab_size": 61, "hidden_size": 24, "num_layers": 2, "num_heads": 4}
GPT_NEO |= {"max_position_embeddings": 32}
IMAGE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
IMAGE |= {"image_size": 8, "patch_size": 4}
DISTIL = {"vocab_size": 61, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40}
DISTIL |= {"max_position_embeddings": 32}
DECODER = GROUPED | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN = TEXT | {f"{name}_token_id": i for i, name in enumerate(("pad", "cls", "sep", "bos", "eos"))}
FALCON = {k: v for k, v in TEXT.items() if k not in ("intermediate_size", "max_position_embeddings")}
NARROW = TEXT | {"embedding_size": 16}
FIVE = {"num_labels": 5}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
LLAMA3 = LINEAR | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 20}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 500.0}
YARN = LINEAR | {"rope_type": "yarn", "original_max_position_embeddings": 8}
LATENT = {
    "q_lora_rank": 14,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 8,
}
LATENT |= {"num_key_value_heads": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 12}
LATENT |= {
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
}
NEXT = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
NEXT |= {"shared_expert_intermediate_size": 20, "full_attention_interval": 2}
NEXT |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6}
NEXT |= {"linear_value_head_dim": 12}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, dict[str, Any]] = {
    "BertModel": TEXT,
    "BertForMaskedLM": TEXT,
    "BertForSequenceClassification": TEXT | FIVE,
    "BertForTokenClassification": TEXT | FIVE,
    "AlbertModel": NARROW,
    "AlbertForMaskedLM": NARROW | {"num_hidden_layers": 3},
    "AlbertForSequenceClassification": NARROW | FIVE,
    "RobertaForMaskedLM": TEXT | {"hidden_act": "relu"},
    "RobertaForSequenceClassification": TEXT | {"type_vocab_size": 1},
    "XLMRobertaForTokenClassification": TEXT | FIVE,
    "CamembertForMaskedLM": TEXT,
    "Data2VecTextForSequenceClassification": TEXT | FIVE,
    "RobertaPreLayerNormForMaskedLM": TEXT,
    "RobertaPreLayerNormForSequenceClassification": TEXT | FIVE,
    "DistilBertForMaskedLM": DISTIL,
    "DistilBertForSequenceClassification": DISTIL | FIVE,
    "DistilBertForTokenClassification": DISTIL | FIVE,
    "ElectraForMaskedLM": NARROW,
    "ElectraForSequenceClassification": TEXT | {"embedding_size": 24},
    "MPNetModel": TEXT,
    "MPNetForMaskedLM": TEXT,
    "MPNetForSequenceClassification": TEXT | FIVE,
    "LlamaForCausalLM": GROUPED | {"rms_norm_eps": 1e-4, "rope_theta": 500.0},
    "LlamaForCausalLM with linear scaling": GROUPED | {"rope_parameters": LINEAR},
    "LlamaForCausalLM with llama3 scaling": GROUPED | {"head_dim": 16, "rope_parameters": LLAMA3},
    "LlamaForCausalLM with yarn scaling": GROUPED | {"head_dim": 16, "rope_parameters": YARN},
    "LlamaForCausalLM with biases": GROUPED | {"attention_bias": True, "mlp_bias": True, "head_dim": 8},
    "MistralForCausalLM": DECODER | {"sliding_window": 4},
    "Qwen2ForCausalLM": GROUPED | {"tie_word_embeddings": True},
    "Qwen2ForCausalLM with a window": GROUPED
    | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "Qwen3ForCausalLM": GROUPED | {"head_dim": 8},
    "Qwen3MoeForCausalLM": GROUPED
    | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 12}
    | {"norm_topk_prob": True, "mlp_only_layers": [1]},
    "Qwen3NextForCausalLM": DECODER | {"head_dim": 8, "partial_rotary_factor": 0.5} | NEXT,
    "Qwen3NextForCausalLM with attention first": DECODER
    | {"head_dim": 8, "partial_rotary_factor": 0.5}
    | NEXT
    | {"linear_num_value_heads": 2, "mlp_only_layers": [0]}
    | {"layer_types": ["full_attention", "linear_attention"]},
    "MixtralForCausalLM": DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "GptOssForCausalLM": DECODER
    | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4}
    | {"swiglu_limit": 0.7},
    "GptOssForCausalLM without scaling": DECODER
    | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 3, "rope_parameters": PLAIN_ROPE},
    "DeepseekV3ForCausalLM": DECODER | LATENT,
    "DeepseekV3ForCausalLM with full queries and halves that turn": DECODER
    | LATENT
    | {"q_lora_rank": None, "rope_interleave": False, "n_group": 1, "topk_group": 1}
    | {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2}},
    "Olmo2ForCausalLM": DECODER | {"head_dim": 8},
    "LlamaForCausalLM with an exact GELU": GROUPED | {"hidden_act": "gelu"},
    "Phi3ForCausalLM": DECODER | {"sliding_window": 5},
    "GemmaForCausalLM": DECODER | {"head_dim": 8},
    "Gemma2ForCausalLM": DECODER | {"head_dim": 8, "query_pre_attn_scalar": 5, "sliding_window": 4},
    "Gemma3ForCausalLM": DECODER | {"head_dim": 8, "query_pre_attn_scalar": 5, "sliding_window": 4} | LAYERS,
    "GraniteForCausalLM": DECODER
    | {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22}
    | {"attention_multiplier": 0.3, "tie_word_embeddings": True},
    "GPT2LMHeadModel": GPT2 | {"n_inner": 40},
    "GPTNeoXForCausalLM": TEXT | {"hidden_size": 32},
    "GPTNeoXForCausalLM one after the other": TEXT | {"use_parallel_residual": False, "rotary_pct": 1.0},
    "GPTNeoForCausalLM": GPT_NEO | {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "GPTNeoForCausalLM without windows": GPT_NEO
    | {"attention_types": [[["global"], 2]], "intermediate_size": 40, "tie_word_embeddings": False},
    "GPTBigCodeForCausalLM": GPT2 | {"n_inner": 40},
    "BloomForCausalLM": {"vocab_size": 61, "hidden_size": 24, "n_layer": 2, "n_head": 6},
    "Starcoder2ForCausalLM": DECODER | {"sliding_window": 5},
    "Starcoder2ForCausalLM without biases": DECODER | {"use_bias": False, "tie_word_embeddings": False},
    "StableLmForCausalLM": DECODER | {"hidden_size": 32, "use_qkv_bias": True},
    "StableLmForCausalLM in parallel": DECODER | {"hidden_size": 32, "use_parallel_residual": True},
    "GPTJForCausalLM": GPT2 | {"rotary_dim": 4},
    "GPTJForCausalLM turned as a whole": GPT2 | {"n_inner": 40, "rotary_dim": 6},
    "PhiForCausalLM": DECODER | {"hidden_size": 32},
    "PhiForCausalLM as Phi-2 turns": DECODER | {"hidden_size": 40, "partial_rotary_factor": 0.4},
    "FalconForCausalLM": FALCON,
    "FalconForCausalLM with biases": FALCON | {"bias": True, "ffn_hidden_size": 40},
    "FalconForCausalLM with keys of each head": FALCON | {"multi_query": False},
    "FalconForCausalLM one after the other": FALCON | {"parallel_attn": False},
    "FalconForCausalLM with groups": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "FalconForCausalLM with groups and one norm": FALCON
    | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}
    | {"tie_word_embeddings": False},
    "OlmoForCausalLM": DECODER,
    "HeliumForCausalLM": DECODER | {"head_dim": 6, "attention_bias": True},
    "Ernie4_5ForCausalLM": DECODER | {"head_dim": 8, "use_bias": True},
    "GlmForCausalLM": DECODER | {"head_dim": 8},
    "ArceeForCausalLM": DECODER | {"mlp_bias": True},
    "SmolLM3ForCausalLM": DECODER | {"no_rope_layers": [1, 0]},
    "OPTForCausalLM": TEXT | {"ffn_dim": 40, "word_embed_proj_dim": 24},
    "ModernBertModel": MODERN | {"norm_bias": True, "mlp_bias": True, "attention_bias": True},
    "ModernBertForMaskedLM": MODERN | {"num_hidden_layers": 4, "local_attention": 4},
    "ViTModel": IMAGE,
    "ViTForImageClassification": IMAGE | FIVE,
    "ViTMSNForImageClassification": IMAGE | FIVE,
    "DeiTForImageClassification": IMAGE | FIVE,
    "Dinov2Model": IMAGE,
}
UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("BertModel", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ("BertModel", {"is_decoder": True}, "is_decoder is True"),
    ("BertForQuestionAnswering", {}, r"architectures is \['BertForQuestionAnswering'\]"),
    ("BertForSequenceClassification", {"num_labels": 1}, "one label, a number and no class"),
    (
        "BertForSequenceClassification",
        {"problem_type": "multi_label_classification"},
        "problem_type is 'multi_label_classification'",
    ),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("BloomForCausalLM", {"apply_residual_connection_post_layernorm": True}, "post_layernorm is True"),
    ("FalconForCausalLM", {"alibi": True}, "alibi is True"),
    ("PhiForCausalLM", {"qk_layernorm": True}, "qk_layernorm is True"),
    ("GPTJForCausalLM", {"rotary_dim": 8}, "rotary_dim is 8"),
    ("GPTBigCodeForCausalLM", {"multi_query": False}, "multi_query is False"),
    ("ModernBertForSequenceClassification", {"pad_token_id": 0}, r"architectures is \['ModernBertForSeq"),
    ("Qwen3MoeForCausalLM", {"num_experts": 4, "num_experts_per_tok": 2}, "norm_topk_prob is False"),
    ("MixtralForCausalLM", {"num_key_value_heads": 2, "num_experts_per_tok": 1}, "num_experts_per_tok is 1"),
    ("MixtralForCausalLM", {"num_key_value_heads": 2, "hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("Qwen3NextForCausalLM", NEXT | {"linear_value_head_dim": 9}, "linear_value_head_dim is 9"),
    ("Qwen3NextForCausalLM", NEXT | {"attention_bias": True}, "attention_bias is True"),
    ("GptOssForCausalLM", {"num_local_experts": 4, "swiglu_alpha": 1.5}, "swiglu_alpha is 1.5"),
    ("DeepseekV3ForCausalLM", LATENT | {"v_head_dim": 6}, "v_head_dim is 6"),
    ("DeepseekV3ForCausalLM", LATENT | {"norm_topk_prob": False}, "norm_topk_prob is False"),
    ("DeepseekV3ForCausalLM", LATENT | {"attention_bias": True}, "attention_bias is True"),
]


def saved(name: str, config: dict[str, Any], folder: Path) -> Any:
    """A model of transformers with weights far from their initial ones, also as a folder."""
    import transformers

    kind = getattr(transformers, name.split()[0])
    made = kind.config_class(**config)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(made).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.2)
        model.save_pretrained(folder)
    return model


def output(result: Any) -> Tensor:
    found: Tensor = result.logits if "logits" in result else result.last_hidden_state
    return found


@pytest.mark.parametrize("name", MODELS)
def test_an_imported_model_computes_what_transformers_computes(name: str, tmp_path: Path):
    check_equal(name, saved(name, MODELS[name], tmp_path / "theirs"), tmp_path)


@torch.no_grad()
def check_equal(name: str, theirs: Any, tmp_path: Path) -> None:
    """Logits of texts with padding, or of images; the model is also a member of its own space."""
    ours, _ = import_model(tmp_path / "theirs", tmp_path / "ours")
    tokens = Tokens()
    if name.startswith(("ViT", "DeiT", "Dino")):
        inputs = torch.randn(2, 3, 8, 8)
        expected, actual = output(theirs(inputs)), ours.model()(inputs)[0]
    else:
        inputs, valid = torch.randint(3, 61, (2, 11)), torch.ones(2, 11, dtype=torch.bool)
        valid[1, 8:] = False
        tokens = Tokens(valid=valid)
        expected = output(theirs(inputs, attention_mask=valid.long()))
        actual = ours.model()(inputs, tokens)[0]
        if actual.dim() == 3:
            actual, expected = actual[valid], expected[valid]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert Encoding(ours.space).decode(Encoding(ours.space).encode(ours.arch)) == ours.arch
    check_order(ours, inputs, tokens)


def check_order(ours: Imported, inputs: Tensor, tokens: Tokens) -> None:
    """With heads, units and channels in order of importance it computes the same; narrower networks give as much."""
    whole, widths = ours.model().double(), ours.space.d_model.values
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    with torch.enable_grad():
        importance = saliency(whole, [(inputs, tokens)])
    if len(widths) == 1:
        importance.pop(CHANNELS, None)
    expected = whole(inputs, tokens)[0]
    again = Model.from_weights(ours.arch, ordered(whole, importance)).eval()
    torch.testing.assert_close(again(inputs, tokens)[0], expected, rtol=1e-9, atol=1e-9)
    if len(widths) > 1:
        assert (widths[0], widths[-1]) == (16, ours.arch.d_model)  # a half, in multiples of 8
        (stage,) = ours.arch.stages
        narrow = replace(ours.arch, d_model=16, stages=(replace(stage, d_model=16),))
        found = Supernet(ours.space).extract(narrow).double()(inputs, tokens)[0]
        assert found.shape == expected.shape


def test_layers_that_only_guess_tokens_further_on_are_left_out_and_said_so(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved("DeepseekV3ForCausalLM", DECODER | LATENT | {"num_hidden_layers": 1}, tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    more = {"model.layers.1.eh_proj.weight": torch.zeros(2, 2), "model.layers.1.enorm.weight": torch.ones(2)}
    save_file(load_file(file) | more, file, {"format": "pt"})
    ours, notes = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert len(ours.arch.blocks) == 1
    assert "left out: layers.1, which only guesses tokens further on" in notes


def test_what_is_as_wide_as_its_outputs_or_not_everywhere_stays_so(tmp_path: Path) -> None:
    for name in ("BertModel", "AlbertForMaskedLM"):
        saved(name, MODELS[name], tmp_path / name)
        ours, _ = import_model(tmp_path / name, tmp_path / "ours", overwrite=True)
        assert ours.space.d_model.values == (ours.arch.d_model,)


@pytest.mark.parametrize(
    ("name", "switch"),
    [("FalconForCausalLM", "parallel_attn"), ("StableLmForCausalLM", "use_parallel_residual")],
)
def test_a_switch_that_chooses_a_description_is_true_or_false(name: str, switch: str, tmp_path: Path) -> None:
    saved(name, MODELS[name], tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {switch: "no"}))
    with pytest.raises(UsageError, match=f"{switch} is 'no'"):
        import_model(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize(("name", "config", "sentence"), UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_key_and_value(
    name: str, config: dict[str, Any], sentence: str, tmp_path: Path
):
    small = {
        "BloomForCausalLM": {"hidden_size": 24, "n_layer": 1, "n_head": 4},
        "GPT2LMHeadModel": GPT2,
        "GPTJForCausalLM": GPT2,
    }
    saved(name, small.get(name, TEXT) | config, tmp_path / "theirs")
    with pytest.raises(UsageError, match=sentence):
        import_model(tmp_path / "theirs", tmp_path / "ours")
