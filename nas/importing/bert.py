"""BERT and MiniLM: post-norm encoders with learned positions; also as a sentence embedding or a masked language model.

The row of the first segment is added to every position, so the imported model is that of texts of one segment. The
pooler is left out. Devlin et al., arXiv:1810.04805; Wang et al., "MiniLM", arXiv:2002.10957.
"""

from __future__ import annotations

from torch import Tensor

from nas.importing.parts import (
    ACTIVATIONS,
    COPIED_ROWS,
    Converted,
    attention,
    below,
    dense,
    layernorm,
    linear_maps,
    mlp,
)
from nas.importing.source import Config, Source, Weights, read_json
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec

POOLER = ("pooler.dense.weight", "pooler.dense.bias")
DECODER_BIAS = "cls.predictions.decoder.bias"  # the same as cls.predictions.bias
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
ONE_SEGMENT = "token types: all tokens are of type 0, whose row is part of the positions"


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights.without_prefix("bert.")
    config.only(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    eps, activation = config.number("layer_norm_eps", 1e-12), config.one_of("hidden_act", ACTIVATIONS, "gelu")
    task, head, head_tensors = encoder_head(source, weights, activation, eps)
    d_model, num_layers = config.size("hidden_size"), config.size("num_hidden_layers")
    arch = ArchSpec(
        task=task,
        stem=token_stem(config),
        d_model=d_model,
        blocks=(post_norm_block(config, activation, eps),) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec.of("learned_norm", eps=eps),
        head=head,
    )
    tensors = embeddings(weights) | head_tensors
    tensors |= linear_maps(weights, [f"encoder.layer.{i}" for i in range(num_layers)], LAYER)
    weights.done("position_ids", *POOLER, DECODER_BIAS)
    notes = [ONE_SEGMENT]
    notes += ["the pooler is left out"] if POOLER[0] in weights else []
    notes += [COPIED_ROWS] if task == "masked_lm" else []
    return Converted(arch, tensors, tuple(notes))


def token_stem(config: Config) -> OpSpec:
    size, max_len = config.size("vocab_size"), config.size("max_position_embeddings")
    return OpSpec.of("token_embedding", vocab_size=size, max_len=max_len)


def post_norm_block(config: Config, activation: str, eps: float) -> BlockSpec:
    num_heads = config.size("num_attention_heads")
    return BlockSpec(
        mixer=attention(num_heads, config.size("hidden_size") // num_heads),
        ffn=mlp(config.size("intermediate_size"), activation),
        norm=layernorm(eps),
        projection=dense(True),
        placement="post",
    )


def embeddings(weights: Weights) -> dict[str, Tensor]:
    segments = weights.take("embeddings.token_type_embeddings.weight")
    norm = weights.linear("embeddings.LayerNorm")
    return {
        "stem.weight": weights.take("embeddings.word_embeddings.weight"),
        "position.weight": weights.take("embeddings.position_embeddings.weight") + segments[0],
        "position.norm_weight": norm["weight"],
        "position.norm_bias": norm["bias"],
    }


def encoder_head(
    source: Source, weights: Weights, activation: str, eps: float
) -> tuple[str, OpSpec, dict[str, Tensor]]:
    """(task, head, its tensors) of what the config's architecture ends in."""
    config = source.config
    given = config.data.get("architectures") or ["BertModel"]
    kind = given[0] if isinstance(given, list) and len(given) == 1 else ""
    if kind == "BertModel":
        return "embedding", embedding_head(source), {}
    if kind != "BertForMaskedLM":
        raise config.refuse("architectures", "['BertModel'] or ['BertForMaskedLM']")
    head, tensors = mlm_head(config, weights, activation, eps, "cls.predictions", "cls.predictions.transform")
    return "masked_lm", head, tensors


def mlm_head(
    config: Config,
    weights: Weights,
    activation: str,
    eps: float,
    rows: str,
    transform: str,
    d_hidden: int = 0,
) -> tuple[OpSpec, dict[str, Tensor]]:
    """The head and its tensors, which they keep below `rows` and `transform`."""
    size, decoder = config.size("vocab_size"), f"{rows}.decoder.weight"
    head = OpSpec.of(
        "mlm_head", vocab_size=size, activation=activation, bias=True, d_hidden=d_hidden, eps=eps
    )
    return head, {
        **below("head.transform_proj", weights.linear(f"{transform}.dense")),
        **below("head", weights.linear(f"{transform}.LayerNorm")),
        "head.proj.weight": weights.take(
            decoder if decoder in weights else "embeddings.word_embeddings.weight"
        ),
        "head.proj.bias": weights.take(f"{rows}.bias"),
    }


def embedding_head(source: Source) -> OpSpec:
    """What modules.json of a sentence embedding asks for; hidden states where there is none."""
    path = source.path / "modules.json"
    pooling = source.path / "1_Pooling" / "config.json"
    if not pooling.is_file():
        return OpSpec.of("embedding", pooling="none", normalize=False)
    config = Config(read_json(pooling), pooling)
    config.only(pooling_mode_max_tokens=False, pooling_mode_mean_sqrt_len_tokens=False)
    first = bool(config.data.get("pooling_mode_cls_token"))
    if first == bool(config.data.get("pooling_mode_mean_tokens")):
        raise config.refuse("pooling_mode_mean_tokens", "either it or pooling_mode_cls_token to be true")
    normalize = path.is_file() and "Normalize" in path.read_text(encoding="utf-8")
    return OpSpec.of("embedding", pooling="first" if first else "mean", normalize=normalize)
