"""ALBERT: a BERT whose layers share one block and whose token rows are narrow. Lan et al., arXiv:1909.11942.

As in BERT the row of the first segment is part of the positions, and the pooler is left out.
"""

from __future__ import annotations

from nas.importing.bert import ONE_SEGMENT, embedding_head, embeddings, mlm_head, post_norm_block, token_stem
from nas.importing.parts import ACTIVATIONS, COPIED_ROWS, Converted, below, linear_maps
from nas.importing.source import Source
from searchspace.spec.arch import ArchSpec, OpSpec, StageSpec

THE_LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
LAYER = {
    "mixer.q_proj": "attention.query",
    "mixer.k_proj": "attention.key",
    "mixer.v_proj": "attention.value",
    "mixer.o_proj": "attention.dense",
    "mixer_norm_post": "attention.LayerNorm",
    "ffn.up_proj": "ffn",
    "ffn.down_proj": "ffn_output",
    "ffn_norm_post": "full_layer_layer_norm",
}
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
    eps, d_embedding = config.number("layer_norm_eps", 1e-12), config.size("embedding_size")
    activation = config.one_of("hidden_act", ACTIVATIONS, "gelu_new")
    tensors = embeddings(weights) | linear_maps(weights, [THE_LAYER], LAYER)
    tensors |= below("stages.0.enter.proj", weights.linear("encoder.embedding_hidden_mapping_in"))
    task, head, notes = "embedding", embedding_head(source), [ONE_SEGMENT]
    architectures = config.data.get("architectures") or ["AlbertModel"]
    if architectures == ["AlbertForMaskedLM"]:
        task, prefix = "masked_lm", "predictions"
        head, tied = mlm_head(config, weights, activation, eps, prefix, prefix, d_embedding)
        tensors |= tied
        notes.append(COPIED_ROWS)
    elif architectures != ["AlbertModel"]:
        raise config.refuse("architectures", "['AlbertModel'] or ['AlbertForMaskedLM']")
    change, repeats = OpSpec("change_width"), config.size("num_hidden_layers")
    arch = ArchSpec(
        task=task,
        stem=token_stem(config),
        d_model=d_embedding,
        blocks=(post_norm_block(config, activation, eps),),
        stages=(StageSpec(1, config.size("hidden_size"), change, repeats=repeats),),
        position=OpSpec.of("learned_norm", eps=eps),
        head=head,
    )
    weights.done(*IGNORED)
    return Converted(arch, tensors, tuple(notes))
