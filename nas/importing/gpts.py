"""Descriptions of decoders with LayerNorms, relatives of GPT, by the model_type of their config.

GPT-2: Radford et al. 2019. GPT-Neo, EleutherAI 2021. GPT-NeoX: Black et al., arXiv:2204.06745. SantaCoder: Ben Allal et
al., arXiv:2301.03988; StarCoder2: arXiv:2402.19173. OPT: Zhang et al., arXiv:2205.01068. BLOOM: arXiv:2211.05100.
Stable LM 2: arXiv:2402.17834. OLMo: arXiv:2402.00838. GPT-J: Wang and Komatsuzaki, 2021. Phi-1 and its successors:
Gunasekar et al., arXiv:2306.11644. Falcon: Almazrouei et al., arXiv:2311.16867.
"""

from __future__ import annotations

from dataclasses import replace

from nas.importing.description import EVERYWHERE, LAYER, NO_ENCODER, ROTARY_MAPS, Family, words

# keys of dropout and of heads that are not imported
NOT_RUN = words(
    "attn_pdrop embd_pdrop resid_pdrop resid_dropout embed_dropout residual_dropout embedding_dropout is_decoder "
    "summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj"
)

GPT2 = Family(
    architectures={"GPT2LMHeadModel": "causal_lm"},
    prefixes=("transformer.",),
    keys={
        "width": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "groups": None,
        "head_dim": None,
        "d_ff": "n_inner",
        "length": "n_positions",
        "activation": "activation_function",
        "eps": "layer_norm_epsilon",
    },
    defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    only={**NO_ENCODER, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    harmless=NOT_RUN | words("reorder_and_upcast_attn n_ctx"),  # a cast before the softmax
    computed=r"h\.\d+\.attn\.(masked_)?bias",
    rows="wte",
    positions="wpe",
    layers="h.{}",
    parts={
        "mixer_norm_in": "ln_1",
        "ffn_norm_in": "ln_2",
        "mixer.q_proj": "attn.c_attn#q",
        "mixer.k_proj": "attn.c_attn#k",
        "mixer.v_proj": "attn.c_attn#v",
        "mixer.o_proj": "attn.c_proj",
        "ffn.up_proj": "mlp.c_fc",
        "ffn.down_proj": "mlp.c_proj",
    },
    norm="layernorm",
    final_norm="ln_f",
    is_gated=False,
    d_ff_ratio=4,
    biases=EVERYWHERE,
    is_transposed=True,
    is_rotary=False,
    is_tied=True,
)
GPT_NEOX = Family(
    architectures={"GPTNeoXForCausalLM": "causal_lm"},
    prefixes=("gpt_neox.",),
    renames=((r"^embed_out\.", "lm_head."),),
    keys={"groups": None, "head_dim": None},
    defaults={"hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.25}
    | {"use_parallel_residual": True},
    only={**NO_ENCODER, "attention_bias": True},
    parallel="use_parallel_residual",
    partial=("partial_rotary_factor", "rotary_pct"),
    harmless=words("is_decoder"),
    computed=r"layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",
    rows="embed_in",
    layers="layers.{}",
    parts={
        "mixer_norm_in": "input_layernorm",
        "ffn_norm_in": "post_attention_layernorm",
        "mixer.q_proj": "attention.query_key_value#each:q",
        "mixer.k_proj": "attention.query_key_value#each:k",
        "mixer.v_proj": "attention.query_key_value#each:v",
        "mixer.o_proj": "attention.dense",
        "ffn.up_proj": "mlp.dense_h_to_4h",
        "ffn.down_proj": "mlp.dense_4h_to_h",
    },
    norm="layernorm",
    final_norm="final_layer_norm",
    is_gated=False,
    biases=EVERYWHERE,
)
OPT = Family(
    architectures={"OPTForCausalLM": "causal_lm"},
    prefixes=("model.", "decoder."),
    keys={
        "groups": None,
        "head_dim": None,
        "d_ff": "ffn_dim",
        "activation": "activation_function",
        "eps": None,
    },
    defaults={"activation_function": "relu", "eps": 1e-5},
    only={
        **NO_ENCODER,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    },
    same={"word_embed_proj_dim": "hidden_size"},
    # keys of training; intermediate_size is a copy of ffn_dim
    harmless=words("layerdrop dropout init_std is_decoder intermediate_size"),
    positions="embed_positions",
    skipped=2,
    layers="layers.{}",
    parts={
        "mixer_norm_in": "self_attn_layer_norm",
        "ffn_norm_in": "final_layer_norm",
        "mixer.q_proj": "self_attn.q_proj",
        "mixer.k_proj": "self_attn.k_proj",
        "mixer.v_proj": "self_attn.v_proj",
        "mixer.o_proj": "self_attn.out_proj",
        "ffn.up_proj": "fc1",
        "ffn.down_proj": "fc2",
    },
    norm="layernorm",
    final_norm="final_layer_norm",
    is_gated=False,
    biases=EVERYWHERE,
    is_rotary=False,
    is_tied=True,
)
GPT_NEO = replace(
    GPT2,
    architectures={"GPTNeoForCausalLM": "causal_lm"},
    keys={
        "layers": "num_layers",
        "heads": "num_heads",
        "groups": None,
        "head_dim": None,
        "activation": "activation_function",
        "eps": "layer_norm_epsilon",
    },
    defaults={**GPT2.defaults, "window_size": 256},
    only=NO_ENCODER,
    harmless=NOT_RUN | words("attention_layers"),  # follows from attention_types
    computed=r"h\.\d+\.attn\.attention\.(masked_)?bias",
    parts={
        "mixer_norm_in": "ln_1",
        "ffn_norm_in": "ln_2",
        "mixer.q_proj": "attn.attention.q_proj",
        "mixer.k_proj": "attn.attention.k_proj",
        "mixer.v_proj": "attn.attention.v_proj",
        "mixer.o_proj": "attn.attention.out_proj",
        "ffn.up_proj": "mlp.c_fc",
        "ffn.down_proj": "mlp.c_proj",
    },
    biases={"o": True, "ffn": True},
    is_transposed=False,
    sliding="types",
    window="window_size",
    scales={"scores": "undivided"},
)
GPT_BIGCODE = replace(
    GPT2,
    architectures={"GPTBigCodeForCausalLM": "causal_lm"},
    keys={**GPT2.keys, "groups": "num_key_value_heads"},
    defaults={"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-5}
    | {"num_key_value_heads": 1},
    only={**NO_ENCODER, "scale_attn_weights": True, "multi_query": True},
    # keys of the softmax's precision and of inference servers
    harmless=NOT_RUN
    | words(
        "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner validate_runner_input "
        "pre_allocate_kv_cache max_sequence_length max_batch_size pad_key_length n_ctx"
    ),
    is_transposed=False,
)
BLOOM = replace(
    GPT2,
    architectures={"BloomForCausalLM": "causal_lm"},
    keys={
        "layers": "n_layer",
        "heads": "n_head",
        "groups": None,
        "head_dim": None,
        "d_ff": None,
        "length": "seq_length",
        "activation": "hidden_act",
        "eps": "layer_norm_epsilon",
    },
    defaults={"hidden_act": "gelu_new", "layer_norm_epsilon": 1e-5, "mlp_ratio": 4, "seq_length": 2048},
    only={**NO_ENCODER, "apply_residual_connection_post_layernorm": False},
    # keys of training and of the implementation
    harmless=NOT_RUN
    | words("pretraining_tp slow_but_exact skip_bias_add skip_bias_add_qkv offset_alibi bias_dropout_fusion"),
    rows="word_embeddings",
    positions="",
    embedding_norm="word_embeddings_layernorm",
    parts={
        "mixer_norm_in": "input_layernorm",
        "ffn_norm_in": "post_attention_layernorm",
        "mixer.q_proj": "self_attention.query_key_value#each:q",
        "mixer.k_proj": "self_attention.query_key_value#each:k",
        "mixer.v_proj": "self_attention.query_key_value#each:v",
        "mixer.o_proj": "self_attention.dense",
        "ffn.up_proj": "mlp.dense_h_to_4h",
        "ffn.down_proj": "mlp.dense_4h_to_h",
    },
    is_transposed=False,
    has_alibi=True,
)
STARCODER2 = Family(
    architectures={"Starcoder2ForCausalLM": "causal_lm"},
    prefixes=("model.",),
    keys={"eps": "norm_epsilon"},
    defaults={"hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "num_key_value_heads": 2}
    | {"use_bias": True, "sliding_window": None},
    only={**NO_ENCODER, "mlp_type": "default", "norm_type": "layer_norm"},
    harmless=NOT_RUN,
    computed=ROTARY_MAPS,
    layers="layers.{}",
    parts={ours: theirs for ours, theirs in LAYER.items() if not ours.startswith("ffn.")}
    | {"ffn.up_proj": "mlp.c_fc", "ffn.down_proj": "mlp.c_proj"},
    norm="layernorm",
    is_gated=False,
    biases=dict.fromkeys(("qkv", "o", "ffn"), "use_bias"),
    sliding="all",
    is_tied=True,
)
STABLELM = Family(
    architectures={"StableLmForCausalLM": "causal_lm"},
    prefixes=("model.",),
    defaults={"hidden_act": "silu", "layer_norm_eps": 1e-5, "num_key_value_heads": 32, "rotary_pct": 0.25},
    only={**NO_ENCODER, "qk_layernorm": False},
    harmless=NOT_RUN,
    computed=ROTARY_MAPS,
    layers="layers.{}",
    parts=LAYER,
    norm="layernorm",
    biases={"qkv": "use_qkv_bias"},
    partial=("partial_rotary_factor",),
    variants=(
        (
            {"use_parallel_residual": True},
            {"parallel": True, "parts": {**LAYER, "ffn_norm_in": LAYER["mixer_norm_in"]}},
        ),
    ),
)
OLMO = Family(
    architectures={"OlmoForCausalLM": "causal_lm"},
    prefixes=("model.",),
    keys={"eps": None},
    defaults={"hidden_act": "silu", "eps": 1e-5},
    only={**NO_ENCODER, "clip_qkv": None},
    computed=ROTARY_MAPS,
    layers="layers.{}",
    parts=LAYER,
    norm="layernorm",
    has_gains=False,
    biases={"qkv": "attention_bias", "o": "attention_bias"},
)
PHI = Family(
    architectures={"PhiForCausalLM": "causal_lm"},
    prefixes=("model.",),
    defaults={"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    only={**NO_ENCODER, "qk_layernorm": False},
    harmless=NOT_RUN,
    computed=ROTARY_MAPS,
    layers="layers.{}",
    parts={ours: theirs for ours, theirs in LAYER.items() if not ours.startswith("ffn.")}
    | {
        "ffn_norm_in": "input_layernorm",
        "mixer.o_proj": "self_attn.dense",
        "ffn.up_proj": "mlp.fc1",
        "ffn.down_proj": "mlp.fc2",
    },
    norm="layernorm",
    final_norm="final_layernorm",
    parallel=True,
    is_gated=False,
    biases=EVERYWHERE,
    partial=("partial_rotary_factor",),
    has_head_bias=True,
)
GPT_J = replace(
    GPT2,
    architectures={"GPTJForCausalLM": "causal_lm"},
    defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "rotary_dim": 64},
    only=NO_ENCODER,
    harmless=NOT_RUN | words("n_ctx rotary"),  # GPT-J is always rotary
    computed=r"h\.\d+\.attn\.((masked_)?bias|embed_positions)",
    positions="",
    parts={
        "mixer_norm_in": "ln_1",
        "ffn_norm_in": "ln_1",
        "mixer.q_proj": "attn.q_proj",
        "mixer.k_proj": "attn.k_proj",
        "mixer.v_proj": "attn.v_proj",
        "mixer.o_proj": "attn.out_proj",
        "ffn.up_proj": "mlp.fc_in",
        "ffn.down_proj": "mlp.fc_out",
    },
    parallel=True,
    biases={"ffn": True},
    is_transposed=False,
    is_rotary=True,
    are_adjacent=True,
    turning="rotary_dim",
    is_tied=False,
    has_head_bias=True,
)
FALCON_PARTS = {**BLOOM.parts, "ffn_norm_in": BLOOM.parts["mixer_norm_in"]}
FALCON_KEYS: dict[str, str | None] = {
    "groups": "n_head_kv",  # in no file, so the default 1 holds, whatever num_kv_heads says
    "head_dim": None,
    "d_ff": "ffn_hidden_size",
    "activation": "activation",
    "eps": "layer_norm_epsilon",
}
FALCON = Family(
    architectures={"FalconForCausalLM": "causal_lm"},
    prefixes=("transformer.",),
    keys=FALCON_KEYS,
    defaults={"activation": "gelu", "layer_norm_epsilon": 1e-5, "n_head_kv": 1, "bias": False}
    | {"max_position_embeddings": 2048, "multi_query": True, "parallel_attn": True}
    | {"new_decoder_architecture": False, "num_ln_in_parallel_attn": 2},
    only={**NO_ENCODER, "alibi": False, "apply_residual_connection_post_layernorm": False},
    harmless=NOT_RUN | words("num_kv_heads"),
    computed=r"h\.\d+\.self_attention\.(rotary_emb|maybe_rotary)\.inv_freq",
    rows="word_embeddings",
    layers="h.{}",
    parts=FALCON_PARTS,
    norm="layernorm",
    final_norm="ln_f",
    parallel=True,
    is_gated=False,
    biases=dict.fromkeys(("qkv", "o", "ffn"), "bias"),
    d_ff_ratio=4,
    is_tied=True,
    variants=(
        (
            {"parallel_attn": False},
            {"parallel": False, "parts": BLOOM.parts},
        ),
        ({"multi_query": False}, {"keys": FALCON_KEYS | {"groups": None}}),
        ({"new_decoder_architecture": True}, {"keys": FALCON_KEYS | {"groups": "num_kv_heads"}}),
        (
            {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1},
            {"parallel": True, "parts": FALCON_PARTS},
        ),
        (
            {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 2},
            {
                "parallel": True,
                "parts": FALCON_PARTS | {"mixer_norm_in": "ln_attn", "ffn_norm_in": "ln_mlp"},
            },
        ),
    ),
)
GPTS = {
    "gpt2": GPT2,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "gpt_bigcode": GPT_BIGCODE,
    "opt": OPT,
    "bloom": BLOOM,
    "gptj": GPT_J,
    "phi": PHI,
    "falcon": FALCON,
    "starcoder2": STARCODER2,
    "stablelm": STABLELM,
    "olmo": OLMO,
}
