"""ALBERT: a BERT whose layers share one block and whose token rows are narrow. Lan et al., arXiv:1909.11942.

As in BERT the row of the first segment is part of the positions, and the pooler is left out.
"""

from __future__ import annotations

from torch import Tensor

from nas.importing.bert import ONE_SEGMENT, embedding_head, embeddings
from nas.importing.parts import (
    ACTIVATIONS,
    COPIED_ROWS,
    Converted,
    attention,
    below,
    dense,
    layernorm,
    mlp,
    named,
)
from nas.importing.source import Source, Weights
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec

LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
IGNORED = (
    "position_ids",
    "pooler.weight",
    "pooler.bias",
    "predictions.decoder.bias",  # the same as predictions.bias
    "sop_classifier.classifier.weight",
    "sop_classifier.classifier.bias",
)


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights.without_prefix("albert.")
    config.only(num_hidden_groups=1, inner_group_num=1, position_embedding_type="absolute")
    d_model, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    eps, activation = (
        config.number("layer_norm_eps", 1e-12),
        config.one_of("hidden_act", ACTIVATIONS, "gelu_new"),
    )
    d_embedding, vocab_size = config.size("embedding_size"), config.size("vocab_size")
    block = BlockSpec(
        mixer=attention(num_heads, d_model // num_heads),
        ffn=mlp(config.size("intermediate_size"), activation),
        norm=layernorm(eps),
        projection=dense(True),
        placement="post",
    )
    tensors = embeddings(weights) | below("blocks.0", _layer(weights))
    tensors |= below("stages.0.enter.proj", weights.linear("encoder.embedding_hidden_mapping_in"))
    task, head, notes = "embedding", embedding_head(source), [ONE_SEGMENT]
    architectures = config.data.get("architectures") or ["AlbertModel"]
    if architectures == ["AlbertForMaskedLM"]:
        task = "masked_lm"
        head = OpSpec.of(
            "mlm_head", vocab_size=vocab_size, activation=activation, bias=True, d_hidden=d_embedding, eps=eps
        )
        tensors |= _mlm_head(weights)
        notes.append(COPIED_ROWS)
    elif architectures != ["AlbertModel"]:
        raise config.refuse("architectures", "['AlbertModel'] or ['AlbertForMaskedLM']")
    max_len = config.size("max_position_embeddings")
    arch = ArchSpec(
        task=task,
        stem=OpSpec.of("token_embedding", vocab_size=vocab_size, max_len=max_len),
        d_model=d_embedding,
        blocks=(block,),
        stages=(StageSpec(1, d_model, OpSpec("change_width"), repeats=config.size("num_hidden_layers")),),
        position=OpSpec.of("learned_norm", eps=eps),
        head=head,
    )
    weights.done(*IGNORED)
    return Converted(arch, tensors, tuple(notes))


def _layer(weights: Weights) -> dict[str, Tensor]:
    return named(
        mixer__q_proj=weights.linear(f"{LAYER}.attention.query"),
        mixer__k_proj=weights.linear(f"{LAYER}.attention.key"),
        mixer__v_proj=weights.linear(f"{LAYER}.attention.value"),
        mixer__o_proj=weights.linear(f"{LAYER}.attention.dense"),
        mixer_norm_post=weights.linear(f"{LAYER}.attention.LayerNorm"),
        ffn__up_proj=weights.linear(f"{LAYER}.ffn"),
        ffn__down_proj=weights.linear(f"{LAYER}.ffn_output"),
        ffn_norm_post=weights.linear(f"{LAYER}.full_layer_layer_norm"),
    )


def _mlm_head(weights: Weights) -> dict[str, Tensor]:
    decoder = "predictions.decoder.weight"
    return {
        **below("head.transform_proj", weights.linear("predictions.dense")),
        **below("head", weights.linear("predictions.LayerNorm")),
        "head.proj.weight": weights.take(
            decoder if decoder in weights else "embeddings.word_embeddings.weight"
        ),
        "head.proj.bias": weights.take("predictions.bias"),
    }
