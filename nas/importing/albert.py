"""ALBERT: a BERT whose layers share one block and whose token rows are narrow. Lan et al., arXiv:1909.11942.

As in BERT the row of the first segment is part of the positions; the pooler and the head that tells the order of two
sentences are left out.
"""

from __future__ import annotations

from nas.importing.bert import (
    POSITION_IDS,
    check_encoder,
    embedding_head,
    embeddings,
    encoder_notes,
    encoder_task,
    mlm_head,
    post_norm_block,
    token_stem,
    with_new_names,
)
from nas.importing.parts import ACTIVATIONS, Converted, below, encoder_blocks
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
ARCHITECTURES = {
    "AlbertModel": "embedding",
    "AlbertForMaskedLM": "masked_lm",
    "AlbertForPreTraining": "masked_lm",
}
LEFT_OUT = (
    "pooler.weight",
    "pooler.bias",
    "sop_classifier.classifier.weight",
    "sop_classifier.classifier.bias",
)
# Of the published configs, read by no code; where there is a head, it asks whether it is tied.
HARMLESS = frozenset(
    ("tie_word_embeddings", "down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks")
)


def convert(source: Source) -> Converted:
    config, weights = source.config, with_new_names(source.weights).without_prefix("albert.")
    check_encoder(config)
    config.only(num_hidden_groups=1, inner_group_num=1)
    eps, d_embedding = config.number("layer_norm_eps", 1e-12), config.size("embedding_size", 128)
    activation = config.one_of("hidden_act", ACTIVATIONS, "gelu_new")
    d_model, rows = config.size("hidden_size"), "predictions"
    task = encoder_task(
        source, ARCHITECTURES, "AlbertForMaskedLM" if f"{rows}.bias" in weights else "AlbertModel"
    )
    tensors = embeddings(config, weights, d_embedding)
    tensors |= encoder_blocks(weights, [THE_LAYER], LAYER, d_model, config.size("intermediate_size"))
    mapping = weights.linear("encoder.embedding_hidden_mapping_in", d_model, d_embedding)
    tensors |= below("stages.0.enter.proj", mapping)
    head = embedding_head(source)
    if task == "masked_lm":
        head, held = mlm_head(config, weights, activation, eps, rows, rows, d_embedding, d_embedding)
        tensors |= held
    change, repeats = OpSpec("change_width"), config.size("num_hidden_layers")
    arch = ArchSpec(
        task=task,
        stem=token_stem(config),
        d_model=d_embedding,
        blocks=(post_norm_block(config, activation, eps),),
        stages=(StageSpec(1, d_model, change, repeats=repeats),),
        position=OpSpec.of("learned_norm", eps=eps),
        head=head,
    )
    left_out = list(LEFT_OUT)
    if source.sentence:
        left_out += [name for name in weights.tensors if name.startswith(f"{rows}.")]
    weights.done(POSITION_IDS, *left_out)
    return Converted(arch, tensors, encoder_notes(weights, task, left_out), harmless=HARMLESS)
