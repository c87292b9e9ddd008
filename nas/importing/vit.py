"""ViT: pre-norm encoders of square images with a class token; as a classifier or as hidden states.

Dosovitskiy et al., arXiv:2010.11929.
"""

from __future__ import annotations

from torch import Tensor

from nas.importing.parts import ACTIVATIONS, Converted, attention, below, dense, layernorm, mlp, named
from nas.importing.source import Source, Weights
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec


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
    for i in range(num_layers):
        tensors |= below(f"blocks.{i}", _layer(weights, f"encoder.layer.{i}"))
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


def _layer(weights: Weights, theirs: str) -> dict[str, Tensor]:
    return named(
        mixer_norm_in=weights.linear(f"{theirs}.layernorm_before"),
        ffn_norm_in=weights.linear(f"{theirs}.layernorm_after"),
        mixer__q_proj=weights.linear(f"{theirs}.attention.attention.query"),
        mixer__k_proj=weights.linear(f"{theirs}.attention.attention.key"),
        mixer__v_proj=weights.linear(f"{theirs}.attention.attention.value"),
        mixer__o_proj=weights.linear(f"{theirs}.attention.output.dense"),
        ffn__up_proj=weights.linear(f"{theirs}.intermediate.dense"),
        ffn__down_proj=weights.linear(f"{theirs}.output.dense"),
    )
