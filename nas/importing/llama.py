"""Llama, Qwen2 and Qwen3: pre-norm decoders with grouped-query attention, rotary positions and SwiGLU.

Touvron et al., arXiv:2302.13971; Qwen2 (arXiv:2407.10671) has biases on q, k and v; Qwen3 (arXiv:2505.09388) a norm on
queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nas.errors import UsageError
from nas.importing.config import Config
from nas.importing.parts import Converted, adjacent_pairs, attention, below, dense, is_tied, named, rmsnorm
from nas.importing.source import Source
from nas.importing.weights import Weights
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# What only a sliding window, which is refused, would use; what Llama's code does not read.
HARMLESS = frozenset(("sliding_window", "max_window_layers", "is_decoder", "is_llama_config"))
QWEN_GROUPS, QWEN3_HEAD_DIM = 32, 128  # of their configs where the key is missing


@dataclass(frozen=True)
class _Sizes:
    d_model: int
    num_heads: int
    num_groups: int
    head_dim: int
    d_ff: int


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights
    kind = config.one_of("model_type", {name: name for name in ARCHITECTURES})
    config.architecture({ARCHITECTURES[kind]: kind}, ARCHITECTURES[kind])
    config.only(hidden_act="silu", partial_rotary_factor=1.0, use_sliding_window=False, pretraining_tp=1)
    config.only(rope_interleaved=False, use_mrope=False, is_encoder_decoder=False, add_cross_attention=False)
    config.only(pruned_heads={})
    num_layers, vocab_size = config.size("num_hidden_layers"), config.size("vocab_size")
    if any(k != "full_attention" for k in config.get("layer_types", ())):
        raise config.refuse("layer_types", "'full_attention' in every layer")
    sizes, eps = _sizes(kind, config), config.number("rms_norm_eps", 1e-6)
    biases = _biases(kind, config)
    qk_norm = OpSpec.of("qk_rms", eps=eps) if kind == "qwen3" else NONE
    block = BlockSpec(
        mixer=attention(sizes.num_heads, sizes.head_dim, sizes.num_groups, qk_norm),
        ffn=OpSpec.of("swiglu", d_ff=sizes.d_ff),
        norm=rmsnorm(eps),
        projection=dense(",".join(biases) or False),
    )
    rows, head, shape = "model.embed_tokens.weight", "lm_head.weight", (vocab_size, sizes.d_model)
    tied = is_tied(config, weights, rows, head, False, *shape)
    arch = ArchSpec(
        task="causal_lm",
        stem=OpSpec.of(
            "token_embedding", vocab_size=vocab_size, max_len=config.size("max_position_embeddings")
        ),
        d_model=sizes.d_model,
        blocks=(block,) * num_layers,
        stages=(StageSpec(num_layers, sizes.d_model),),
        position=OpSpec.of("rope", base=_base(config), dim=sizes.head_dim),
        final_norm=rmsnorm(eps),
        head=OpSpec.of("tied_head" if tied else "lm_head", vocab_size=vocab_size),
    )
    tensors = {
        "stem.weight": weights.take(rows, *shape),
        "final_norm.weight": weights.take("model.norm.weight", sizes.d_model),
    }
    for i in range(num_layers):
        theirs = f"model.layers.{i}"
        tensors |= below(f"blocks.{i}", _layer(weights, theirs, biases, sizes))
        if kind == "qwen3":
            for ours in ("q", "k"):
                gain = {"weight": weights.take(f"{theirs}.self_attn.{ours}_norm.weight", sizes.head_dim)}
                tensors[f"blocks.{i}.mixer.qk_norm.{ours}_weight"] = adjacent_pairs(gain, sizes.head_dim)[
                    "weight"
                ]
    if not tied:
        tensors["head.proj.weight"] = weights.take(head, *shape)
    # frequencies that older files keep, computed from the config
    weights.done(
        "model.rotary_emb.inv_freq",
        *(f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(num_layers)),
    )
    return Converted(arch, tensors, harmless=HARMLESS)


def _sizes(kind: str, config: Config) -> _Sizes:
    d_model, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    is_qwen = kind != "llama" and "num_key_value_heads" not in config.data
    num_groups = config.size("num_key_value_heads", QWEN_GROUPS if is_qwen else num_heads)
    if num_heads % num_groups:
        raise config.refuse("num_key_value_heads", f"a divisor of num_attention_heads {num_heads}")
    if config.get("head_dim") is not None:
        head_dim = config.size("head_dim")
    else:
        head_dim = QWEN3_HEAD_DIM if kind == "qwen3" else config.parts("hidden_size", "num_attention_heads")
    if head_dim % 2:
        raise config.refuse(
            "head_dim", f"an even number, as rotary channels are pairs; here it is {head_dim}"
        )
    return _Sizes(d_model, num_heads, num_groups, head_dim, config.size("intermediate_size"))


def _biases(kind: str, config: Config) -> tuple[str, ...]:
    """The roles with a bias."""
    if kind == "qwen2":
        config.only(attention_bias=True, mlp_bias=False)
        return ("q", "k", "v")
    attends = ("q", "k", "v", "o") if config.flag("attention_bias", False) else ()
    if kind == "qwen3":
        config.only(mlp_bias=False)
        return attends
    return (*attends, *(("gate", "up", "down") if config.flag("mlp_bias", False) else ()))


def _base(config: Config) -> float:
    """Of the rotary angles; a scaling of them is refused."""
    bases = {config.number("rope_theta", 10000.0)} if config.get("rope_theta") is not None else set()
    for key in ("rope_parameters", "rope_scaling"):
        given = config.get(key, {})
        if not isinstance(given, dict) or given.keys() - {
            "rope_type",
            "type",
            "rope_theta",
            "partial_rotary_factor",
        }:
            raise config.refuse(key, "rotary positions without scaling")
        inner = Config(given, config.path)
        try:
            inner.only(rope_type="default", type="default", partial_rotary_factor=1.0)
            bases |= {inner.number("rope_theta", 10000.0)} if inner.get("rope_theta") is not None else set()
        except UsageError:
            raise config.refuse(key, "rotary positions without scaling") from None
    if len(bases) > 1:
        raise config.refuse("rope_theta", f"one base of the rotary angles; here they are {sorted(bases)}")
    base = next(iter(bases), 10000.0)
    return int(base) if base == int(base) else base


def _layer(weights: Weights, theirs: str, biases: tuple[str, ...], sizes: _Sizes) -> dict[str, Tensor]:
    d_q, d_kv = sizes.num_heads * sizes.head_dim, sizes.num_groups * sizes.head_dim
    shapes = {
        "q": (d_q, sizes.d_model),
        "k": (d_kv, sizes.d_model),
        "v": (d_kv, sizes.d_model),
        "o": (sizes.d_model, d_q),
        "gate": (sizes.d_ff, sizes.d_model),
        "up": (sizes.d_ff, sizes.d_model),
        "down": (sizes.d_model, sizes.d_ff),
    }

    def linear(role: str) -> dict[str, Tensor]:
        part = "mlp" if role in ("gate", "up", "down") else "self_attn"
        return weights.linear(f"{theirs}.{part}.{role}_proj", *shapes[role], bias=role in biases)

    return named(
        mixer_norm_in=weights.norm(f"{theirs}.input_layernorm", sizes.d_model, bias=False),
        ffn_norm_in=weights.norm(f"{theirs}.post_attention_layernorm", sizes.d_model, bias=False),
        mixer__q_proj=adjacent_pairs(linear("q"), sizes.head_dim),
        mixer__k_proj=adjacent_pairs(linear("k"), sizes.head_dim),
        mixer__v_proj=linear("v"),
        mixer__o_proj=linear("o"),
        ffn__gate_proj=linear("gate"),
        ffn__up_proj=linear("up"),
        ffn__down_proj=linear("down"),
    )
