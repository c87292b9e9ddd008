"""GPT-2: pre-norm decoders with learned positions and biases. Radford et al. 2019.

Its linear maps are stored as [in, out], queries, keys and values side by side.
"""

from __future__ import annotations

from torch import Tensor

from nas.importing.parts import (
    ACTIVATIONS,
    Converted,
    attention,
    below,
    dense,
    is_tied,
    layernorm,
    mlp,
    named,
)
from nas.importing.source import Source
from nas.importing.weights import Weights
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec

# A cast before the softmax, dropout of training, and heads that are not taken.
HARMLESS = frozenset(
    [
        "reorder_and_upcast_attn",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "n_ctx",
        "is_decoder",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ]
)


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights.without_prefix("transformer.")
    config.only(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    config.only(is_encoder_decoder=False, pruned_heads={})
    config.architecture({"GPT2LMHeadModel": "causal_lm"}, "GPT2LMHeadModel")
    d_model, num_heads = config.size("n_embd"), config.size("n_head")
    norm = layernorm(config.number("layer_norm_epsilon", 1e-5))
    activation = config.one_of("activation_function", ACTIVATIONS, "gelu_new")
    d_ff = config.size("n_inner", 4 * d_model)
    block = BlockSpec(
        mixer=attention(num_heads, config.parts("n_embd", "n_head")),
        ffn=mlp(d_ff, activation),
        norm=norm,
        projection=dense(True),
    )
    num_layers, vocab_size = config.size("n_layer"), config.size("vocab_size")
    max_len, rows, head = config.size("n_positions"), "wte.weight", "lm_head.weight"
    tied = is_tied(config, weights, rows, head, True, vocab_size, d_model)
    arch = ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=vocab_size, max_len=max_len),
        d_model=d_model,
        blocks=(block,) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec("learned"),
        final_norm=norm,
        head=OpSpec.of("tied_head" if tied else "lm_head", vocab_size=vocab_size),
    )
    tensors = {
        "stem.weight": weights.take(rows, vocab_size, d_model),
        "position.weight": weights.take("wpe.weight", max_len, d_model),
    }
    tensors |= below("final_norm", weights.norm("ln_f", d_model))
    for i in range(num_layers):
        tensors |= below(f"blocks.{i}", _layer(weights, f"h.{i}", d_model, d_ff))
    if not tied:
        tensors["head.proj.weight"] = weights.take(head, vocab_size, d_model)
    masks = [f"h.{i}.attn.{name}" for i in range(num_layers) for name in ("bias", "masked_bias")]
    weights.done(*masks)
    return Converted(arch, tensors, harmless=HARMLESS)


def _layer(weights: Weights, theirs: str, d_model: int, d_ff: int) -> dict[str, Tensor]:
    qkv = weights.transposed(f"{theirs}.attn.c_attn", 3 * d_model, d_model)
    q, k, v = ({name: tensor.chunk(3)[i].clone() for name, tensor in qkv.items()} for i in range(3))
    return named(
        mixer_norm_in=weights.norm(f"{theirs}.ln_1", d_model),
        ffn_norm_in=weights.norm(f"{theirs}.ln_2", d_model),
        mixer__q_proj=q,
        mixer__k_proj=k,
        mixer__v_proj=v,
        mixer__o_proj=weights.transposed(f"{theirs}.attn.c_proj", d_model, d_model),
        ffn__up_proj=weights.transposed(f"{theirs}.mlp.c_fc", d_ff, d_model),
        ffn__down_proj=weights.transposed(f"{theirs}.mlp.c_proj", d_model, d_ff),
    )
