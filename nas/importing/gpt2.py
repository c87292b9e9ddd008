"""GPT-2: pre-norm decoders with learned positions and biases. Radford et al. 2019.

Its linear maps are stored as [in, out], queries, keys and values side by side.
"""

from __future__ import annotations

from torch import Tensor

from nas.importing.parts import ACTIVATIONS, Converted, attention, below, dense, layernorm, mlp, named
from nas.importing.source import Source, Weights
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights.without_prefix("transformer.")
    config.only(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    d_model, num_heads = config.size("n_embd"), config.size("n_head")
    norm = layernorm(config.number("layer_norm_epsilon", 1e-5))
    activation = config.one_of("activation_function", ACTIVATIONS, "gelu_new")
    block = BlockSpec(
        mixer=attention(num_heads, d_model // num_heads),
        ffn=mlp(config.size("n_inner", 4 * d_model), activation),
        norm=norm,
        projection=dense(True),
    )
    num_layers, vocab_size = config.size("n_layer"), config.size("vocab_size")
    is_tied = config.data.get("tie_word_embeddings", True)
    arch = ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=vocab_size, max_len=config.size("n_positions")),
        d_model=d_model,
        blocks=(block,) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec("learned"),
        final_norm=norm,
        head=OpSpec.of("tied_head" if is_tied else "lm_head", vocab_size=vocab_size),
    )
    tensors = {"stem.weight": weights.take("wte.weight"), "position.weight": weights.take("wpe.weight")}
    tensors |= below("final_norm", weights.linear("ln_f"))
    for i in range(num_layers):
        tensors |= below(f"blocks.{i}", _layer(weights, f"h.{i}"))
    if not is_tied:
        tensors["head.proj.weight"] = weights.take("lm_head.weight")
    weights.done("attn.bias", "attn.masked_bias", *(["lm_head.weight"] if is_tied else []))
    return Converted(arch, tensors)


def _layer(weights: Weights, theirs: str) -> dict[str, Tensor]:
    def linear(name: str) -> dict[str, Tensor]:
        held = weights.linear(f"{theirs}.{name}")
        return held | {"weight": held["weight"].T.contiguous()}

    q, k, v = ({n: t.chunk(3)[i].clone() for n, t in linear("attn.c_attn").items()} for i in range(3))
    return named(
        mixer_norm_in=weights.linear(f"{theirs}.ln_1"),
        ffn_norm_in=weights.linear(f"{theirs}.ln_2"),
        mixer__q_proj=q,
        mixer__k_proj=k,
        mixer__v_proj=v,
        mixer__o_proj=linear("attn.c_proj"),
        ffn__up_proj=linear("mlp.c_fc"),
        ffn__down_proj=linear("mlp.c_proj"),
    )
