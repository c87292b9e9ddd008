"""Llama, Qwen2 and Qwen3: pre-norm decoders with grouped-query attention, rotary positions and SwiGLU.

Touvron et al., arXiv:2302.13971; Qwen2 (arXiv:2407.10671) has biases on q, k and v; Qwen3 (arXiv:2505.09388) a norm on
queries and keys.
"""

from __future__ import annotations

from torch import Tensor

from nas.importing.parts import Converted, adjacent_pairs, attention, below, dense, named, rmsnorm
from nas.importing.source import Config, Source, Weights
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights
    kind = config.one_of("model_type", {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"})
    config.only(hidden_act="silu", partial_rotary_factor=1.0, use_sliding_window=False, pretraining_tp=1)
    if any(k != "full_attention" for k in config.data.get("layer_types") or ()):
        raise config.refuse("layer_types", "'full_attention' in every layer")
    d_model, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    head_dim, eps = config.size("head_dim", d_model // num_heads), config.number("rms_norm_eps", 1e-6)
    biases = _biases(kind, config)
    qk_norm = OpSpec.of("qk_rms", eps=eps) if kind == "qwen3" else NONE
    block = BlockSpec(
        mixer=attention(num_heads, head_dim, config.size("num_key_value_heads", num_heads), qk_norm),
        ffn=OpSpec.of("swiglu", d_ff=config.size("intermediate_size")),
        norm=rmsnorm(eps),
        projection=dense(",".join(biases) or False),
    )
    num_layers, vocab_size = config.size("num_hidden_layers"), config.size("vocab_size")
    is_tied = bool(config.data.get("tie_word_embeddings", False))
    arch = ArchSpec(
        task="causal_lm",
        stem=OpSpec.of(
            "token_embedding", vocab_size=vocab_size, max_len=config.size("max_position_embeddings")
        ),
        d_model=d_model,
        blocks=(block,) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec.of("rope", base=_base(config), dim=head_dim),
        final_norm=rmsnorm(eps),
        head=OpSpec.of("tied_head" if is_tied else "lm_head", vocab_size=vocab_size),
    )
    tensors = {
        "stem.weight": weights.take("model.embed_tokens.weight"),
        "final_norm.weight": weights.take("model.norm.weight"),
    }
    for i in range(num_layers):
        theirs = f"model.layers.{i}"
        tensors |= below(f"blocks.{i}", _layer(weights, theirs, biases, head_dim))
        if kind == "qwen3":
            for ours in ("q", "k"):
                gain = {"weight": weights.take(f"{theirs}.self_attn.{ours}_norm.weight")}
                tensors[f"blocks.{i}.mixer.qk_norm.{ours}_weight"] = adjacent_pairs(gain, head_dim)["weight"]
    if not is_tied:
        tensors["head.proj.weight"] = weights.take("lm_head.weight")
    weights.done("rotary_emb.inv_freq", *(["lm_head.weight"] if is_tied else []))
    return Converted(arch, tensors)


def _biases(kind: str, config: Config) -> tuple[str, ...]:
    """The roles with a bias."""
    attends = (
        ("q", "k", "v")
        if kind == "qwen2"
        else ("q", "k", "v", "o")
        if config.data.get("attention_bias")
        else ()
    )
    return (*attends, *(("gate", "up", "down") if config.data.get("mlp_bias") else ()))


def _base(config: Config) -> float:
    """Of the rotary angles; a scaling of them is refused."""
    for key in ("rope_parameters", "rope_scaling"):
        given = config.data.get(key) or {}
        if given.get("rope_type", given.get("type", "default")) != "default":
            raise config.refuse(key, "rotary positions without scaling")
    base = (config.data.get("rope_parameters") or {}).get("rope_theta") or config.number(
        "rope_theta", 10000.0
    )
    return int(base) if base == int(base) else float(base)


def _layer(weights: Weights, theirs: str, biases: tuple[str, ...], head_dim: int) -> dict[str, Tensor]:
    def linear(role: str) -> dict[str, Tensor]:
        part = "mlp" if role in ("gate", "up", "down") else "self_attn"
        return weights.linear(f"{theirs}.{part}.{role}_proj", bias=role in biases)

    return named(
        mixer_norm_in=weights.linear(f"{theirs}.input_layernorm", bias=False),
        ffn_norm_in=weights.linear(f"{theirs}.post_attention_layernorm", bias=False),
        mixer__q_proj=adjacent_pairs(linear("q"), head_dim),
        mixer__k_proj=adjacent_pairs(linear("k"), head_dim),
        mixer__v_proj=linear("v"),
        mixer__o_proj=linear("o"),
        ffn__gate_proj=linear("gate"),
        ffn__up_proj=linear("up"),
        ffn__down_proj=linear("down"),
    )
