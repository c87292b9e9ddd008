"""ViT: pre-norm encoders of square images with a class token; as a classifier or as hidden states.

Dosovitskiy et al., arXiv:2010.11929.
"""

from __future__ import annotations

from nas.importing.parts import (
    ACTIVATIONS,
    Converted,
    attention,
    below,
    dense,
    encoder_blocks,
    layernorm,
    mlp,
)
from nas.importing.source import Source
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec

LAYER = {
    "mixer_norm_in": "layernorm_before",
    "ffn_norm_in": "layernorm_after",
    "mixer.q_proj": "attention.attention.query",
    "mixer.k_proj": "attention.attention.key",
    "mixer.v_proj": "attention.attention.value",
    "mixer.o_proj": "attention.output.dense",
    "ffn.up_proj": "intermediate.dense",
    "ffn.down_proj": "output.dense",
}


ARCHITECTURES = {"ViTModel": "embedding", "ViTForImageClassification": "classification"}
DEFAULT_CLASSES = 2  # where the config names none
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
# Of the pooler, which is left out, and of training on masked images.
HARMLESS = frozenset(("pooler_act", "pooler_output_size", "encoder_stride"))


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights.without_prefix("vit.")
    config.only(qkv_bias=True, is_encoder_decoder=False, pruned_heads={})
    d_model, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    d_ff, num_layers = config.size("intermediate_size"), config.size("num_hidden_layers")
    norm = layernorm(config.number("layer_norm_eps", 1e-12))
    block = BlockSpec(
        mixer=attention(num_heads, config.parts("hidden_size", "num_attention_heads")),
        ffn=mlp(d_ff, config.one_of("hidden_act", ACTIVATIONS, "gelu")),
        norm=norm,
        projection=dense(True),
    )
    side, patch, channels = (
        config.size("image_size"),
        config.size("patch_size"),
        config.size("num_channels", 3),
    )
    num_patches = config.parts("image_size", "patch_size") ** 2
    projection = "embeddings.patch_embeddings.projection"
    tensors = {
        "stem.class_token": weights.take("embeddings.cls_token", 1, 1, d_model).flatten(),
        "stem.proj.weight": weights.take(f"{projection}.weight", d_model, channels, patch, patch).flatten(1),
        "stem.proj.bias": weights.take(f"{projection}.bias", d_model),
        "position.weight": weights.take("embeddings.position_embeddings", 1, num_patches + 1, d_model)[
            0
        ].clone(),
    }
    tensors |= below("final_norm", weights.norm("layernorm", d_model))
    tensors |= encoder_blocks(
        weights, [f"encoder.layer.{i}" for i in range(num_layers)], LAYER, d_model, d_ff
    )
    task = config.architecture(ARCHITECTURES, "ViTModel")
    head = OpSpec.of("embedding", pooling="none", normalize=False)
    if task == "classification":
        num_classes = config.size("num_labels", len(config.get("id2label", range(DEFAULT_CLASSES))))
        tensors |= below("head.proj", weights.linear("classifier", num_classes, d_model))
        head = OpSpec.of("classifier", num_classes=num_classes, pooling="first", bias=True)
    arch = ArchSpec(
        task=task,
        stem=OpSpec.of("class_patch_embedding", image_size=side, patch_size=patch, channels=channels),
        d_model=d_model,
        blocks=(block,) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec("learned"),
        final_norm=norm,
        head=head,
    )
    weights.done(*POOLER)
    notes = ("left out: pooler.dense",) if POOLER[0] in weights else ()
    return Converted(arch, tensors, notes, harmless=HARMLESS)
