"""Descriptions of decoders with RMSNorms, relatives of Llama, by the model_type of their config.

Llama: Touvron et al., arXiv:2302.13971. Mistral: Jiang et al., arXiv:2310.06825. Qwen2: arXiv:2407.10671; Qwen3:
arXiv:2505.09388. Mixtral: arXiv:2401.04088. Phi-3: arXiv:2404.14219. Gemma: arXiv:2403.08295; Gemma 2:
arXiv:2408.00118; Gemma 3: arXiv:2503.19786. OLMo 2: arXiv:2501.00656. Granite 3.0, IBM 2024. SmolLM3, Hugging Face
2025. DeepSeek-V3: arXiv:2412.19437. Helium 1, Kyutai 2025. ERNIE 4.5, Baidu 2025. GLM-4: arXiv:2406.12793. AFM,
Arcee 2025.
"""

from __future__ import annotations

from dataclasses import replace

from nas.importing.description import (
    EVERYWHERE,
    LAYER,
    NO_ENCODER,
    ROTARY_MAPS,
    Delta,
    Experts,
    Family,
    Latent,
    words,
)

RMS = {"eps": "rms_norm_eps"}
SANDWICH = LAYER | {
    "mixer_norm_out": "post_attention_layernorm",
    "ffn_norm_in": "pre_feedforward_layernorm",
    "ffn_norm_out": "post_feedforward_layernorm",
}
ATTENTION_BIAS = {"qkv": "attention_bias", "o": "attention_bias"}
TRAINING_OF_EXPERTS = words("output_router_logits router_aux_loss_coef")

LLAMA = Family(
    architectures={"LlamaForCausalLM": "causal_lm"},
    prefixes=("model.",),
    keys=RMS,
    defaults={"hidden_act": "silu", "rms_norm_eps": 1e-6},
    only={
        **NO_ENCODER,
        "pretraining_tp": 1,
        "rope_interleaved": False,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    harmless=words("is_decoder is_llama_config sliding_window max_window_layers"),  # read by no code
    computed=ROTARY_MAPS,
    layers="layers.{}",
    parts=LAYER,
    biases={**ATTENTION_BIAS, "ffn": "mlp_bias"},
)
MISTRAL = replace(
    LLAMA,
    architectures={"MistralForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "sliding_window": 4096, "num_key_value_heads": 8},
    biases={},
    sliding="all",
)
QWEN2 = replace(
    LLAMA,
    architectures={"Qwen2ForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    only={**NO_ENCODER, "attention_bias": True, "mlp_bias": False, "use_mrope": False},
    biases={"qkv": True},
    sliding="late",
)
QWEN3 = replace(
    QWEN2,
    architectures={"Qwen3ForCausalLM": "causal_lm"},
    defaults={**QWEN2.defaults, "head_dim": 128},
    only={**NO_ENCODER, "mlp_bias": False, "use_mrope": False},
    biases=ATTENTION_BIAS,
    qk_norm="qk_rms",
)
QWEN3_EXPERTS = Experts(
    count=("num_experts", "num_local_experts"),
    chosen="num_experts_per_tok",
    width="moe_intermediate_size",
    router="mlp.gate",
    parts={role: f"mlp.experts.{{}}.{role}_proj" for role in ("gate", "up", "down")},
    normalized="norm_topk_prob",
    dense="mlp_only_layers",
    step="decoder_sparse_step",
)
QWEN3_MOE = replace(
    QWEN3,
    architectures={"Qwen3MoeForCausalLM": "causal_lm"},
    defaults={
        **LLAMA.defaults,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "norm_topk_prob": False,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    },
    harmless=words("sliding_window max_window_layers") | TRAINING_OF_EXPERTS,
    sliding="",
    only={**QWEN3.only, "use_sliding_window": False},
    experts=QWEN3_EXPERTS,
)
QWEN3_NEXT = replace(
    QWEN3_MOE,
    architectures={"Qwen3NextForCausalLM": "causal_lm"},
    defaults={**QWEN3_MOE.defaults, "num_key_value_heads": 2, "head_dim": 256, "norm_topk_prob": True}
    | {"num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512}
    | {"shared_expert_intermediate_size": 512, "rotary_pct": 0.25, "full_attention_interval": 4}
    | {"linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_conv_kernel_dim": 4}
    | {"linear_key_head_dim": 128, "linear_value_head_dim": 128},
    only={**NO_ENCODER, "attention_bias": False, "use_sliding_window": False, "mlp_bias": False},
    left_out=(r"mtp\..*",),  # multi-token prediction
    partial=("partial_rotary_factor",),
    parts=LAYER | {"mixer.q_proj": "self_attn.q_proj#half:0", "mixer.gate_proj": "self_attn.q_proj#half:1"},
    biases={},
    norm_offset=1.0,
    output_gate=True,
    delta=Delta(
        kind="linear_attention",
        every="full_attention_interval",
        keys="linear_num_key_heads",
        values="linear_num_value_heads",
        key_dim="linear_key_head_dim",
        value_dim="linear_value_head_dim",
        taps="linear_conv_kernel_dim",
        inputs="linear_attn.in_proj_qkvz",
        gates="linear_attn.in_proj_ba",
        step="linear_attn.dt_bias",
        rate="linear_attn.A_log",
        conv="linear_attn.conv1d",
        norm="linear_attn.norm",
        out="linear_attn.out_proj",
    ),
    experts=replace(
        QWEN3_EXPERTS,
        shared_width="shared_expert_intermediate_size",
        shared_gate="mlp.shared_expert_gate",
        shared_parts={role: f"mlp.shared_expert.{role}_proj" for role in ("gate", "up", "down")},
    ),
)
MIXTRAL = replace(
    MISTRAL,
    architectures={"MixtralForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "num_key_value_heads": 8, "sliding_window": None, "rms_norm_eps": 1e-5}
    | {"rope_theta": 1e6},
    harmless=words("router_jitter_noise") | TRAINING_OF_EXPERTS,
    experts=Experts(
        count=("num_local_experts",),
        chosen="num_experts_per_tok",
        width="intermediate_size",
        router="block_sparse_moe.gate",
        parts={
            role: f"block_sparse_moe.experts.{{}}.{name}"
            for role, name in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
        },
    ),
)
FOUR_THOUSAND = {"original_max_position_embeddings": 4096}
GPT_OSS = replace(
    LLAMA,
    architectures={"GptOssForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5}
    | {"rope_theta": 150000.0, "sliding_window": 128, "num_local_experts": 128, "num_experts_per_tok": 4}
    | {"intermediate_size": 2880, "swiglu_limit": 7.0, "attention_bias": True}
    | {"rope_parameters": {"rope_type": "yarn", "factor": 32.0, "truncate": False, **FOUR_THOUSAND}},
    # weights in 4-bit blocks must be dequantized before the import
    only={**NO_ENCODER, "attention_bias": True, "swiglu_alpha": 1.702, "quantization_config": None},
    # copies of num_experts_per_tok and of a value of rope_parameters
    harmless=words("experts_per_token initial_context_length") | TRAINING_OF_EXPERTS,
    biases=EVERYWHERE,
    sliding="every 2",
    sinks="self_attn.sinks",
    experts=Experts(
        count=("num_local_experts", "num_experts"),
        chosen="num_experts_per_tok",
        width="intermediate_size",
        router="mlp.router",
        shift="mlp.router.bias",
        limit="swiglu_limit",
        stacked={"gate_up": "mlp.experts.gate_up_proj", "down": "mlp.experts.down_proj"},
    ),
)
OLMO2 = replace(
    LLAMA,
    architectures={"Olmo2ForCausalLM": "causal_lm"},
    only=NO_ENCODER,
    biases=ATTENTION_BIAS,
    parts={ours: theirs for ours, theirs in LAYER.items() if "norm" not in ours}
    | {"mixer_norm_out": "post_attention_layernorm", "ffn_norm_out": "post_feedforward_layernorm"},
    placement="output",
    qk_norm="qk_rms_joint",
)
PHI3 = replace(
    LLAMA,
    architectures={"Phi3ForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "rms_norm_eps": 1e-5},
    only={**NO_ENCODER, "attention_bias": False, "mlp_bias": False},
    harmless=words("resid_pdrop embd_pdrop is_decoder"),
    partial=("partial_rotary_factor",),
    parts=LAYER
    | {f"mixer.{role}_proj": f"self_attn.qkv_proj#{role}" for role in "qkv"}
    | {"ffn.gate_proj": "mlp.gate_up_proj#0", "ffn.up_proj": "mlp.gate_up_proj#1"},
    biases={},
    sliding="all",
)
GEMMA = replace(
    LLAMA,
    architectures={"GemmaForCausalLM": "causal_lm"},
    defaults={
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "head_dim": 256,
        "num_key_value_heads": 16,
    },
    only={**NO_ENCODER, "hidden_activation": "gelu_pytorch_tanh", "use_bidirectional_attention": False},
    biases=ATTENTION_BIAS,
    norm_offset=1.0,
    is_tied=True,
    scales={"embedding": "sqrt_width"},
)
GEMMA2 = replace(
    GEMMA,
    architectures={"Gemma2ForCausalLM": "causal_lm"},
    keys=RMS | {"activation": "hidden_activation"},
    defaults={
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "head_dim": 256,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    only={**NO_ENCODER, "use_bidirectional_attention": False},
    parts=SANDWICH,
    placement="peri",
    sliding="every 2",
    scales={"embedding": "sqrt_width", "scores": "query_scalar"},
)
GEMMA3 = replace(
    GEMMA2,
    architectures={"Gemma3ForCausalLM": "causal_lm"},
    defaults={
        **GEMMA2.defaults,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_theta": 1e6,
    },
    qk_norm="qk_rms",
    sliding="every 6",
)
GRANITE = replace(
    LLAMA,
    architectures={"GraniteForCausalLM": "causal_lm"},
    only=NO_ENCODER,
    scales={
        "embedding": "embedding_multiplier",
        "residual": "residual_multiplier",
        "logits": "logits_scaling",
        "scores": "attention_multiplier",
    },
)
SMOLLM3 = replace(
    LLAMA,
    architectures={"SmolLM3ForCausalLM": "causal_lm"},
    defaults={
        **LLAMA.defaults,
        "num_key_value_heads": 4,
        "rope_theta": 2000000.0,
        "no_rope_layer_interval": 4,
        "sliding_window": None,
    },
    only=NO_ENCODER,
    sliding="late",
    is_tied=True,
)
EXPERT_MAPS = {role: f"{role}_proj" for role in ("gate", "up", "down")}
DEEPSEEK_V3 = replace(
    LLAMA,
    architectures={"DeepseekV3ForCausalLM": "causal_lm"},
    keys=RMS | {"groups": None, "head_dim": "qk_nope_head_dim"},
    defaults=dict(LLAMA.defaults)
    | {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128}
    | {"v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8}
    | {"moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5}
    | {"norm_topk_prob": True, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1},
    only={
        **NO_ENCODER,
        "pretraining_tp": 1,
        "attention_bias": False,
        "moe_layer_freq": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
    same={"num_key_value_heads": "num_attention_heads"},
    # keys computed from others, keys of training, and another name of num_nextn_predict_layers
    harmless=words("head_dim qk_head_dim aux_loss_alpha seq_aux ep_size auto_map num_mtp_layers is_decoder")
    | TRAINING_OF_EXPERTS,
    parts={
        ours: theirs for ours, theirs in LAYER.items() if ours[:7] not in ("mixer.q", "mixer.k", "mixer.v")
    },
    biases={},
    latent=Latent(
        rank="kv_lora_rank",
        query_rank="q_lora_rank",
        turned="qk_rope_head_dim",
        values="v_head_dim",
        are_adjacent="rope_interleave",
        down="self_attn.kv_a_proj_with_mqa",
        norm="self_attn.kv_a_layernorm",
        up="self_attn.kv_b_proj",
        query="self_attn.q_proj",
        query_down="self_attn.q_a_proj",
        query_norm="self_attn.q_a_layernorm",
        query_up="self_attn.q_b_proj",
    ),
    further="num_nextn_predict_layers",
    experts=Experts(
        count=("n_routed_experts", "num_local_experts"),
        chosen="num_experts_per_tok",
        width="moe_intermediate_size",
        router="mlp.gate",
        parts={role: f"mlp.experts.{{}}.{name}" for role, name in EXPERT_MAPS.items()},
        normalized="norm_topk_prob",
        first="first_k_dense_replace",
        routing="sigmoid",
        bias="mlp.gate.e_score_correction_bias",
        scale="routed_scaling_factor",
        groups=("n_group", "topk_group"),
        shared="n_shared_experts",
        shared_parts={role: f"mlp.shared_experts.{name}" for role, name in EXPERT_MAPS.items()},
    ),
)
HELIUM = replace(
    LLAMA,
    architectures={"HeliumForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "num_key_value_heads": 20, "head_dim": 128, "rms_norm_eps": 1e-8},
    only=NO_ENCODER,
    biases={"qkv": "attention_bias", "ffn": "mlp_bias"},
    are_adjacent=True,
)
ERNIE = replace(
    LLAMA,
    architectures={"Ernie4_5ForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5}
    | {"rope_theta": 500000.0},
    only=NO_ENCODER,
    biases=dict.fromkeys(("qkv", "o", "ffn"), "use_bias"),
    are_adjacent=True,
    is_tied=True,
)
GLM = replace(
    LLAMA,
    architectures={"GlmForCausalLM": "causal_lm"},
    defaults={**LLAMA.defaults, "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1.5625e-7}
    | {"attention_bias": True, "rotary_pct": 0.5},
    only=NO_ENCODER,
    partial=("partial_rotary_factor",),
    parts=LAYER | {"ffn.gate_proj": "mlp.gate_up_proj#0", "ffn.up_proj": "mlp.gate_up_proj#1"},
    biases={"qkv": "attention_bias"},
    are_adjacent=True,
)
ARCEE = replace(
    LLAMA,
    architectures={"ArceeForCausalLM": "causal_lm"},
    defaults={"hidden_act": "relu2", "rms_norm_eps": 1e-5},
    only=NO_ENCODER,
    parts={ours: theirs for ours, theirs in LAYER.items() if "gate" not in ours},
    is_gated=False,
)
GLASSLLM = Family(
    architectures={"GlassLM": "causal_lm"},
    renames=((r"\.gamma$", ".weight"), (r"^E$", "E.weight"), (r"\.(W\w+)$", r".\1.weight")),
    keys={
        "width": "d_model",
        "layers": "n_layers",
        "heads": "n_heads",
        "groups": "n_kv_heads",
        "head_dim": None,
        "d_ff": "d_ff",
        "length": "max_len",
        "activation": None,
        "eps": "eps",
    },
    defaults={"eps": 1e-6},
    harmless=words("init_std"),
    rows="E",
    layers="blocks.{}",
    parts={
        "mixer_norm_in": "norm1",
        "ffn_norm_in": "norm2",
        "mixer.q_proj": "attn.W_Q",
        "mixer.k_proj": "attn.W_K",
        "mixer.v_proj": "attn.W_V",
        "mixer.o_proj": "attn.W_O",
        "ffn.gate_proj": "ffn.W1",
        "ffn.up_proj": "ffn.W3",
        "ffn.down_proj": "ffn.W2",
    },
    final_norm="norm_f",
    is_transposed=True,
    are_adjacent=True,
    is_tied=True,
)
LLAMAS = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "qwen3_next": QWEN3_NEXT,
    "mixtral": MIXTRAL,
    "gpt_oss": GPT_OSS,
    "olmo2": OLMO2,
    "phi3": PHI3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "granite": GRANITE,
    "smollm3": SMOLLM3,
    "deepseek_v3": DEEPSEEK_V3,
    "helium": HELIUM,
    "ernie4_5": ERNIE,
    "glm": GLM,
    "arcee": ARCEE,
    "glassllm": GLASSLLM,
}
