"""BERT and MiniLM: post-norm encoders with learned positions; also as a sentence embedding or a masked language model.

The row of the first segment is added to every position, so the imported model is that of texts of one segment. The
pooler and the head that tells whether a sentence follows are left out. Devlin et al., arXiv:1810.04805; Wang et al.,
"MiniLM", arXiv:2002.10957.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from nas.importing.config import Config
from nas.importing.parts import (
    ACTIVATIONS,
    COPIED_ROWS,
    Converted,
    attention,
    below,
    dense,
    encoder_blocks,
    is_tied,
    layernorm,
    mlp,
)
from nas.importing.source import Source
from nas.importing.weights import Weights
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec

POSITION_IDS, WORDS = "embeddings.position_ids", "embeddings.word_embeddings.weight"
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
FOLLOWS = ("cls.seq_relationship.weight", "cls.seq_relationship.bias")
LAYER = {
    "mixer.q_proj": "attention.self.query",
    "mixer.k_proj": "attention.self.key",
    "mixer.v_proj": "attention.self.value",
    "mixer.o_proj": "attention.output.dense",
    "mixer_norm_post": "attention.output.LayerNorm",
    "ffn.up_proj": "intermediate.dense",
    "ffn.down_proj": "output.dense",
    "ffn_norm_post": "output.LayerNorm",
}
ARCHITECTURES = {
    "BertModel": "embedding",
    "BertForMaskedLM": "masked_lm",
    "BertForPreTraining": "masked_lm",
}
# Of the pooler, which is left out; where there is a head, it asks whether it is tied.
HARMLESS = frozenset(
    [
        "tie_word_embeddings",
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ]
)
ONE_SEGMENT = "token types: all tokens are of type 0, whose row is part of the positions"
OLD_NORMS = {"gamma": "weight", "beta": "bias"}


def convert(source: Source) -> Converted:
    config, weights = source.config, with_new_names(source.weights).without_prefix("bert.")
    check_encoder(config)
    eps, activation = config.number("layer_norm_eps", 1e-12), config.one_of("hidden_act", ACTIVATIONS, "gelu")
    d_model, num_layers = config.size("hidden_size"), config.size("num_hidden_layers")
    rows = "cls.predictions"
    task = encoder_task(
        source, ARCHITECTURES, "BertForMaskedLM" if f"{rows}.bias" in weights else "BertModel"
    )
    tensors = embeddings(config, weights, d_model)
    layers = [f"encoder.layer.{i}" for i in range(num_layers)]
    tensors |= encoder_blocks(weights, layers, LAYER, d_model, config.size("intermediate_size"))
    head = embedding_head(source)
    if task == "masked_lm":
        head, held = mlm_head(config, weights, activation, eps, rows, f"{rows}.transform", d_model)
        tensors |= held
    arch = ArchSpec(
        task=task,
        stem=token_stem(config),
        d_model=d_model,
        blocks=(post_norm_block(config, activation, eps),) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec.of("learned_norm", eps=eps),
        head=head,
    )
    left_out = [*POOLER, *FOLLOWS]
    if source.sentence:  # the transformer alone is what the modules follow on
        left_out += [name for name in weights.tensors if name.startswith(f"{rows}.")]
    weights.done(POSITION_IDS, *left_out)
    return Converted(arch, tensors, encoder_notes(weights, task, left_out), harmless=HARMLESS)


def with_new_names(weights: Weights) -> Weights:
    """Gain and shift of a LayerNorm as they are called since 2019."""
    return weights.renamed(
        lambda name: re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda found: OLD_NORMS[found[0]], name)
    )


def check_encoder(config: Config) -> None:
    config.only(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    config.only(is_encoder_decoder=False, pruned_heads={})
    config.parts("hidden_size", "num_attention_heads")


def encoder_task(source: Source, architectures: Mapping[str, str], default: str) -> str:
    """What the config's architecture ends in; of a sentence embedding it is what its modules say."""
    task = source.config.architecture(architectures, default)
    return "embedding" if source.sentence else task


def encoder_notes(weights: Weights, task: str, left_out: list[str]) -> tuple[str, ...]:
    missing = sorted({name.rpartition(".")[0] for name in left_out if name in weights})
    notes = [ONE_SEGMENT]
    notes += [f"left out: {', '.join(missing)}"] if missing else []
    return (*notes, COPIED_ROWS) if task == "masked_lm" else tuple(notes)


def token_stem(config: Config) -> OpSpec:
    size, max_len = config.size("vocab_size"), config.size("max_position_embeddings")
    return OpSpec.of("token_embedding", vocab_size=size, max_len=max_len)


def post_norm_block(config: Config, activation: str, eps: float) -> BlockSpec:
    return BlockSpec(
        mixer=attention(
            config.size("num_attention_heads"), config.parts("hidden_size", "num_attention_heads")
        ),
        ffn=mlp(config.size("intermediate_size"), activation),
        norm=layernorm(eps),
        projection=dense(True),
        placement="post",
    )


def embeddings(config: Config, weights: Weights, width: int) -> dict[str, Tensor]:
    """Of rows of `width`."""
    max_len = config.size("max_position_embeddings")
    segments = weights.take(
        "embeddings.token_type_embeddings.weight", config.size("type_vocab_size", 2), width
    )
    norm = weights.norm("embeddings.LayerNorm", width)
    positions = weights.take("embeddings.position_embeddings.weight", max_len, width)
    return {
        "stem.weight": weights.take(WORDS, config.size("vocab_size"), width),
        "position.weight": positions + segments[0],
        "position.norm_weight": norm["weight"],
        "position.norm_bias": norm["bias"],
    }


def mlm_head(
    config: Config,
    weights: Weights,
    activation: str,
    eps: float,
    rows: str,
    transform: str,
    width: int,
    d_hidden: int = 0,
) -> tuple[OpSpec, dict[str, Tensor]]:
    """The head and its tensors, which they keep below `rows` and `transform`; `width` is that of a token's row.

    The decoder's tensors are those of the token rows and of `rows`.bias where they are tied, its own where not.
    """
    size, d_model = config.size("vocab_size"), config.size("hidden_size")
    head = OpSpec.of(
        "mlm_head", vocab_size=size, activation=activation, bias=True, d_hidden=d_hidden, eps=eps
    )
    decoder, bias = f"{rows}.decoder.weight", f"{rows}.decoder.bias"
    tied = is_tied(config, weights, WORDS, decoder, True, size, width)
    if bias not in weights:
        bias = f"{rows}.bias"
    elif f"{rows}.bias" in weights:
        shared = weights.take(f"{rows}.bias", size)
        if tied and not torch.equal(weights.take(bias, size), shared):
            raise config.refuse(
                "tie_word_embeddings", f"false where {bias} differs from {rows}.bias, as it does here"
            )
    return head, {
        **below("head.transform_proj", weights.linear(f"{transform}.dense", width, d_model)),
        **below("head", weights.norm(f"{transform}.LayerNorm", width)),
        "head.proj.weight": weights.take(WORDS if tied else decoder, size, width),
        "head.proj.bias": weights.take(bias, size),
    }


def embedding_head(source: Source) -> OpSpec:
    """What modules.json of a sentence embedding asks for; hidden states where there is none."""
    sentence, width = source.sentence, source.config.size("hidden_size")
    if sentence is None:
        return OpSpec.of("embedding", pooling="none", normalize=False)
    if sentence.width not in (None, width):
        raise source.config.refuse("hidden_size", f"what pooling takes, {sentence.width}")
    return OpSpec.of("embedding", pooling=sentence.pooling, normalize=sentence.normalize)
