"""Descriptions of DeBERTa by the model_type of their config. v1: He et al., arXiv:2006.03654; v2: its authors' code;
v3: arXiv:2111.09543, which has the architecture of v2 and another pretraining task.

Texts have one segment, as for the other encoders. A classifier's hidden layer has the activation that the config names.
"""

from __future__ import annotations

from dataclasses import replace

from nas.importing.description import Classifier, Disentangled, MaskedHead, words
from nas.importing.encoders import BERT, NO_DECODER, POOLER, architectures

TABLE, TABLE_NORM = "encoder.rel_embeddings", "encoder.LayerNorm"
# A model without absolute positions or token types has no such rows, though older files may still hold them.
VARIANTS = (
    ({"position_biased_input": False}, {"positions": ""}),
    ({"type_vocab_size": 0}, {"segments": ""}),
    (
        {"legacy": False},
        {
            "masked": MaskedHead(
                "lm_predictions.lm_head.dense",
                "lm_predictions.lm_head.LayerNorm",
                "",
                "lm_predictions.lm_head.bias",
            )
        },
    ),
)
DEBERTA = replace(
    BERT,
    architectures=architectures("Deberta"),
    prefixes=("deberta.",),
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-7,
        "type_vocab_size": 0,
        "position_biased_input": True,
        "legacy": True,
        "pooler_hidden_act": "gelu",
    },
    only={**NO_DECODER, "talking_head": False},
    same={"embedding_size": "hidden_size", "pooler_hidden_size": "hidden_size"},
    # keys of training, of v2, and of heads, which read them where the model has such a head
    harmless=words(
        "tie_word_embeddings legacy pooler_hidden_act pooler_dropout cls_dropout padding_idx attention_head_size "
        "position_buckets share_att_key norm_rel_ebd conv_kernel_size conv_act conv_groups summary_last_dropout"
    ),
    left_out=(
        *POOLER,
        r"lm_predictions\..*",
        r"mask_predictions\..*",
        r"embeddings\.position_embeddings\.weight",
        rf"({TABLE}|{TABLE_NORM})\.(weight|bias)",
    ),
    parts={
        "mixer.q_proj": "attention.self.in_proj#each:q+attention.self.q_bias",
        "mixer.k_proj": "attention.self.in_proj#each:k",
        "mixer.v_proj": "attention.self.in_proj#each:v+attention.self.v_bias",
        **{
            ours: theirs
            for ours, theirs in BERT.parts.items()
            if ours[:7] not in ("mixer.q", "mixer.k", "mixer.v")
        },
    },
    biases={**BERT.biases, "k": False},
    disentangled=Disentangled(TABLE, "attention.self.pos_proj", "attention.self.pos_q_proj"),
    classifier=Classifier(hidden="pooler.dense", activation_key="pooler_hidden_act"),
    variants=VARIANTS,
)
DEBERTA_V2 = replace(
    DEBERTA,
    architectures=architectures("DebertaV2"),
    keys={"groups": None, "head_dim": "attention_head_size"},
    only=NO_DECODER,
    harmless=words(
        "tie_word_embeddings legacy pooler_hidden_act pooler_dropout cls_dropout padding_idx talking_head conv_act "
        "conv_groups summary_last_dropout"
    ),
    parts={
        **DEBERTA.parts,
        "mixer.q_proj": "attention.self.query_proj",
        "mixer.k_proj": "attention.self.key_proj",
        "mixer.v_proj": "attention.self.value_proj",
    },
    biases=BERT.biases,
    disentangled=Disentangled(
        TABLE,
        "attention.self.pos_key_proj",
        "attention.self.pos_query_proj",
        is_key_biased=True,
        shared="share_att_key",
        buckets="position_buckets",
        norm=TABLE_NORM,
        norm_key="norm_rel_ebd",
        convolution="conv_kernel_size",
    ),
)
DEBERTAS = {"deberta": DEBERTA, "deberta-v2": DEBERTA_V2}
