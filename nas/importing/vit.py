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
    layernorm,
    linear_maps,
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


def convert(source: Source) -> Converted:
    config, weights = source.config, source.weights.without_prefix("vit.")
    config.only(qkv_bias=True)
    d_model, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    norm = layernorm(config.number("layer_norm_eps", 1e-12))
    block = BlockSpec(
        mixer=attention(num_heads, d_model // num_heads),
        ffn=mlp(config.size("intermediate_size"), config.one_of("hidden_act", ACTIVATIONS, "gelu")),
        norm=norm,
        projection=dense(True),
    )
    num_layers = config.size("num_hidden_layers")
    tensors = {
        "stem.class_token": weights.take("embeddings.cls_token").flatten(),
        "stem.proj.weight": weights.take("embeddings.patch_embeddings.projection.weight").flatten(1),
        "stem.proj.bias": weights.take("embeddings.patch_embeddings.projection.bias"),
        "position.weight": weights.take("embeddings.position_embeddings")[0].clone(),
    }
    tensors |= below("final_norm", weights.linear("layernorm"))
    tensors |= linear_maps(weights, [f"encoder.layer.{i}" for i in range(num_layers)], LAYER)
    architectures = config.data.get("architectures") or ["ViTModel"]
    if architectures == ["ViTForImageClassification"]:
        classifier = weights.linear("classifier")
        tensors |= below("head.proj", classifier)
        head = OpSpec.of("classifier", num_classes=len(classifier["bias"]), pooling="first", bias=True)
    elif architectures == ["ViTModel"]:
        head = OpSpec.of("embedding", pooling="none", normalize=False)
    else:
        raise config.refuse("architectures", "['ViTModel'] or ['ViTForImageClassification']")
    arch = ArchSpec(
        task="embedding" if head.op == "embedding" else "classification",
        stem=OpSpec.of(
            "class_patch_embedding",
            image_size=config.size("image_size"),
            patch_size=config.size("patch_size"),
            channels=config.size("num_channels", 3),
        ),
        d_model=d_model,
        blocks=(block,) * num_layers,
        stages=(StageSpec(num_layers, d_model),),
        position=OpSpec("learned"),
        final_norm=norm,
        head=head,
    )
    weights.done("pooler.dense.weight", "pooler.dense.bias")
    return Converted(arch, tensors)
