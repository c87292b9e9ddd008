"""Networks of published tables as architectures of this project, as closely as its operators allow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention

BIASED = OpSpec.of("dense", bias=True)
LAYERNORM, GELU, LEARNED = (OpSpec(name) for name in ("layernorm", "gelu", "learned"))
BERT_VOCABULARY, BERT_EMBEDDING, BERT_LENGTH, BERT_POSITIONS = 30522, 128, 128, 512
BERT_FIRST_FFN = 1024  # width of the first hidden layer; the gene only applies to further ones
LTS_VOCABULARY = 256  # in place of 50,264 with adaptive embeddings, which are no difference between decoders


def attention(num_heads: int, d_model: int) -> OpSpec:
    return plain_attention(num_heads, 1, d_model // num_heads)


def bert_encoder(entry: Mapping[str, Any]) -> ArchSpec:
    """NAS-Bench-BERT: post-norm encoders with softmax attention in every layer and a head with two classes per token.

    There is no final norm, which would cancel the flow that SynFlow sums. An FFN of three hidden layers gets one width
    here, that of its second and third; the embedding has the width of the network.
    """
    d_model = int(entry["hidden_size"])
    blocks = tuple(_bert_block(layer, d_model) for layer in entry["encoder_layers"])
    return ArchSpec(
        task="masked_lm",
        stem=OpSpec.of("token_embedding", vocab_size=BERT_VOCABULARY, max_len=BERT_LENGTH),
        d_model=d_model,
        blocks=blocks,
        stages=(StageSpec(len(blocks), d_model),),
        head=OpSpec.of("lm_head", vocab_size=2),
        position=LEARNED,
    )


def _bert_block(layer: Mapping[str, Any], d_model: int) -> BlockSpec:
    num_hidden = int(layer["num_feed_forward"])
    d_ff = BERT_FIRST_FFN if num_hidden == 1 else int(layer["feed_forward_dimension"])
    ffn = OpSpec.of("deep_mlp", d_ff=d_ff, num_hidden=num_hidden, activation=GELU)
    mixer = attention(int(layer["num_operation_heads"]), d_model)
    return BlockSpec(mixer, ffn, LAYERNORM, BIASED, "post")


def bert_parameters(entry: Mapping[str, Any]) -> int:
    """The exact number of parameters of the published network."""
    d = int(entry["hidden_size"])
    embedding = BERT_EMBEDDING * (BERT_VOCABULARY + BERT_POSITIONS + 2 + 2)
    total = embedding + (0 if d == BERT_EMBEDDING else d * BERT_EMBEDDING + d)
    for layer in entry["encoder_layers"]:
        further = [int(layer["feed_forward_dimension"])] * (int(layer["num_feed_forward"]) - 1)
        widths = [d, BERT_FIRST_FFN, *further, d]
        total += 4 * (d * d + d) + 4 * d
        total += sum(a * b + b for a, b in pairwise(widths))
    return total


def lts_decoder(row: Mapping[str, str]) -> ArchSpec:
    """LiteTransformerSearch: pre-norm decoders like GPT-2, with the heads and FFN width of each layer."""
    d_model = int(row["cfg_d_model"])
    inner, heads = (json.loads(row[name]) for name in ("cfg_d_inner", "cfg_n_head"))
    blocks = tuple(
        BlockSpec(attention(h, d_model), OpSpec.of("mlp", d_ff=f, activation=GELU), LAYERNORM, BIASED, "pre")
        for f, h in zip(inner, heads, strict=True)
    )
    return ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=LTS_VOCABULARY, max_len=int(row["cfg_tgt_len"])),
        d_model=d_model,
        blocks=blocks,
        stages=(StageSpec(len(blocks), d_model),),
        head=OpSpec.of("lm_head", vocab_size=LTS_VOCABULARY),
        position=LEARNED,
        final_norm=LAYERNORM,
    )
