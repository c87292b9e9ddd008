"""Descriptions of encoders of text and of images, by the model_type of their config.

BERT: Devlin et al., arXiv:1810.04805 (also MiniLM, Wang et al., arXiv:2002.10957). ALBERT: Lan et al.,
arXiv:1909.11942. RoBERTa: Liu et al., arXiv:1907.11692; XLM-R: Conneau et al., arXiv:1911.02116. DistilBERT: Sanh et
al., arXiv:1910.01108. ELECTRA: Clark et al., arXiv:2003.10555. MPNet: Song et al., arXiv:2004.09297. ModernBERT:
Warner et al., arXiv:2412.13663. ViT: Dosovitskiy et al., arXiv:2010.11929; DeiT: Touvron et al., arXiv:2012.12877.
DINOv2: Oquab et al., arXiv:2304.07193.

The embedding row of the first segment is added to every position, so imported models read texts of one segment.
"""

from __future__ import annotations

from dataclasses import replace

from nas.importing.description import EVERYWHERE, Classifier, Family, MaskedHead, words

NO_DECODER = {
    "is_decoder": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
}
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
SEGMENTS = "embeddings.token_type_embeddings"
ROBERTA_HEAD = MaskedHead(
    "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", activation="gelu_erf"
)


def architectures(name: str, *, trained: str = "") -> dict[str, str]:
    """Class name -> task for one family of text encoders; `trained` is the task of its ForPreTraining class, if any."""
    found = {f"{name}Model": "embedding", f"{name}ForMaskedLM": "masked_lm"}
    found |= {f"{name}ForSequenceClassification": "classification"}
    found |= {f"{name}ForTokenClassification": "token_classification"}
    return found | ({f"{name}ForPreTraining": trained} if trained else {})


BERT = Family(
    architectures=architectures("Bert", trained="masked_lm"),
    prefixes=("bert.",),
    renames=(
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
    ),  # until 2019
    keys={"groups": None, "head_dim": None},
    defaults={"hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2},
    only={**NO_DECODER, "position_embedding_type": "absolute"},
    # keys of the pooler; tie_word_embeddings is read where the model has a head
    harmless=words(
        "tie_word_embeddings directionality pooler_fc_size pooler_num_attention_heads "
        "pooler_num_fc_layers pooler_size_per_head pooler_type"
    ),
    left_out=(*POOLER, "cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    computed=r"embeddings\.position_ids",
    rows="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    segments=SEGMENTS,
    embedding_norm="embeddings.LayerNorm",
    layers="encoder.layer.{}",
    parts={
        "mixer.q_proj": "attention.self.query",
        "mixer.k_proj": "attention.self.key",
        "mixer.v_proj": "attention.self.value",
        "mixer.o_proj": "attention.output.dense",
        "mixer_norm_post": "attention.output.LayerNorm",
        "ffn.up_proj": "intermediate.dense",
        "ffn.down_proj": "output.dense",
        "ffn_norm_post": "output.LayerNorm",
    },
    norm="layernorm",
    final_norm="",
    placement="post",
    is_gated=False,
    biases=EVERYWHERE,
    is_rotary=False,
    is_tied=True,
    masked=MaskedHead(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    ),
    classifier=Classifier(hidden="pooler.dense", activation="tanh"),
)
ALBERT = replace(
    BERT,
    architectures=architectures("Albert", trained="masked_lm"),
    prefixes=("albert.",),
    defaults={**BERT.defaults, "hidden_act": "gelu_new", "embedding_size": 128},
    only={**NO_DECODER, "position_embedding_type": "absolute", "num_hidden_groups": 1, "inner_group_num": 1},
    harmless=words("tie_word_embeddings down_scale_factor gap_size net_structure_type num_memory_blocks"),
    left_out=(
        "pooler.weight",
        "pooler.bias",
        "sop_classifier.classifier.weight",
        "sop_classifier.classifier.bias",
    ),
    projected="encoder.embedding_hidden_mapping_in",
    narrow="embedding_size",
    is_shared=True,
    layers="encoder.albert_layer_groups.0.albert_layers.0",
    parts={
        "mixer.q_proj": "attention.query",
        "mixer.k_proj": "attention.key",
        "mixer.v_proj": "attention.value",
        "mixer.o_proj": "attention.dense",
        "mixer_norm_post": "attention.LayerNorm",
        "ffn.up_proj": "ffn",
        "ffn.down_proj": "ffn_output",
        "ffn_norm_post": "full_layer_layer_norm",
    },
    masked=MaskedHead(
        "predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias"
    ),
    classifier=Classifier(hidden="pooler", activation="tanh"),
)
ROBERTA = replace(
    BERT,
    architectures=architectures("Roberta"),
    prefixes=("roberta.",),
    defaults={**BERT.defaults, "pad_token_id": 1},
    left_out=POOLER,
    skipped="pad_token_id",
    masked=ROBERTA_HEAD,
    classifier=Classifier("classifier.out_proj", "classifier.dense", "tanh"),
)
CAMEMBERT = replace(ROBERTA, architectures=architectures("Camembert"))
DATA2VEC = replace(ROBERTA, architectures=architectures("Data2VecText"), prefixes=("data2vec_text.",))
ROBERTA_PRE = replace(
    ROBERTA,
    architectures=architectures("RobertaPreLayerNorm"),
    prefixes=("roberta_prelayernorm.",),
    parts={ours: theirs for ours, theirs in BERT.parts.items() if "norm" not in ours}
    | {"mixer_norm_in": "attention.LayerNorm", "ffn_norm_in": "intermediate.LayerNorm"},
    final_norm="LayerNorm",
    placement="pre",
)
XLM_ROBERTA = replace(ROBERTA, architectures=architectures("XLMRoberta"))
DISTILBERT = replace(
    BERT,
    architectures=architectures("DistilBert"),
    prefixes=("distilbert.",),
    keys={
        "width": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "groups": None,
        "head_dim": None,
        "d_ff": "hidden_dim",
        "activation": "activation",
        "eps": None,
    },
    defaults={"activation": "gelu", "eps": 1e-12},
    only={**NO_DECODER, "tie_weights_": True},
    # keys of training; sinusoidal_pos_embds only initializes the position rows, which the file holds
    harmless=words("tie_word_embeddings dropout qa_dropout seq_classif_dropout sinusoidal_pos_embds"),
    left_out=(),
    segments="",
    layers="transformer.layer.{}",
    parts={
        "mixer.q_proj": "attention.q_lin",
        "mixer.k_proj": "attention.k_lin",
        "mixer.v_proj": "attention.v_lin",
        "mixer.o_proj": "attention.out_lin",
        "mixer_norm_post": "sa_layer_norm",
        "ffn.up_proj": "ffn.lin1",
        "ffn.down_proj": "ffn.lin2",
        "ffn_norm_post": "output_layer_norm",
    },
    masked=MaskedHead("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    classifier=Classifier(hidden="pre_classifier", activation="relu"),
)
ELECTRA = replace(
    BERT,
    architectures=architectures("Electra", trained="embedding"),
    prefixes=("electra.",),
    defaults={**BERT.defaults, "embedding_size": 128},
    # keys of heads that are not imported
    harmless=words(
        "tie_word_embeddings summary_type summary_use_proj summary_activation summary_last_dropout"
    ),
    left_out=tuple(
        f"discriminator_predictions.{part}.{name}"
        for part in ("dense", "dense_prediction")
        for name in ("weight", "bias")
    ),
    projected="embeddings_project",
    narrow="embedding_size",
    masked=MaskedHead(
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head",
        activation="gelu_erf",
    ),
    classifier=Classifier("classifier.out_proj", "classifier.dense", "gelu_erf"),
)
MPNET = replace(
    BERT,
    architectures=architectures("MPNet"),
    prefixes=("mpnet.",),
    defaults={"hidden_act": "gelu", "layer_norm_eps": 1e-12, "relative_attention_num_buckets": 32},
    only=NO_DECODER,
    harmless=words("tie_word_embeddings"),
    left_out=POOLER,
    skipped=2,
    segments="",
    relative="encoder.relative_attention_bias",
    parts={
        "mixer.q_proj": "attention.attn.q",
        "mixer.k_proj": "attention.attn.k",
        "mixer.v_proj": "attention.attn.v",
        "mixer.o_proj": "attention.attn.o",
        "mixer_norm_post": "attention.LayerNorm",
        "ffn.up_proj": "intermediate.dense",
        "ffn.down_proj": "output.dense",
        "ffn_norm_post": "output.LayerNorm",
    },
    masked=ROBERTA_HEAD,
    classifier=Classifier("classifier.out_proj", "classifier.dense", "tanh"),
)
MODERNBERT = Family(
    architectures={"ModernBertModel": "embedding", "ModernBertForMaskedLM": "masked_lm"},
    prefixes=("model.",),
    keys={"groups": None, "head_dim": None, "activation": "hidden_activation", "eps": "norm_eps"},
    defaults={
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "local_attention": 128,
        "rope_theta": 160_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    only={**NO_DECODER, "classifier_activation": "gelu", "decoder_bias": True}
    | {"position_embedding_type": "absolute"},
    # keys of training and of the implementation
    harmless=words(
        "tie_word_embeddings initializer_cutoff_factor embedding_dropout mlp_dropout classifier_pooling "
        "deterministic_flash_attn sparse_prediction sparse_pred_ignore_index reference_compile classifier_bias "
        "repad_logits_with_grad sliding_window"
    ),
    rows="embeddings.tok_embeddings",
    embedding_norm="embeddings.norm",
    layers="layers.{}",
    parts={
        "mixer_norm_in": "attn_norm",
        "ffn_norm_in": "mlp_norm",
        "mixer.q_proj": "attn.Wqkv#q",
        "mixer.k_proj": "attn.Wqkv#k",
        "mixer.v_proj": "attn.Wqkv#v",
        "mixer.o_proj": "attn.Wo",
        "ffn.gate_proj": "mlp.Wi#0",
        "ffn.up_proj": "mlp.Wi#1",
        "ffn.down_proj": "mlp.Wo",
    },
    norm="layernorm",
    norm_bias="norm_bias",
    is_normed_at_first=False,
    final_norm="final_norm",
    biases={"qkv": "attention_bias", "o": "attention_bias", "ffn": "mlp_bias"},
    sliding="after 3",
    window="local_attention",
    is_tied=True,
    masked=MaskedHead(
        "head.dense", "head.norm", "decoder", activation="gelu_erf", transform_bias="classifier_bias"
    ),
)
VIT = Family(
    architectures={"ViTModel": "embedding", "ViTForImageClassification": "classification"},
    prefixes=("vit.",),
    keys={"groups": None, "head_dim": None},
    defaults={"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_channels": 3},
    only={"qkv_bias": True, "is_encoder_decoder": False, "pruned_heads": {}},
    # keys of the pooler and of training on masked images
    harmless=words("pooler_act pooler_output_size encoder_stride"),
    left_out=POOLER,
    layers="encoder.layer.{}",
    parts={
        "mixer_norm_in": "layernorm_before",
        "ffn_norm_in": "layernorm_after",
        "mixer.q_proj": "attention.attention.query",
        "mixer.k_proj": "attention.attention.key",
        "mixer.v_proj": "attention.attention.value",
        "mixer.o_proj": "attention.output.dense",
        "ffn.up_proj": "intermediate.dense",
        "ffn.down_proj": "output.dense",
    },
    norm="layernorm",
    final_norm="layernorm",
    is_gated=False,
    biases=EVERYWHERE,
    is_rotary=False,
    classifier=Classifier(),
)
VIT_MSN = replace(
    VIT,
    architectures={"ViTMSNModel": "embedding", "ViTMSNForImageClassification": "classification"},
    defaults={**VIT.defaults, "layer_norm_eps": 1e-6},
    left_out=("embeddings.mask_token",),
)
DEIT = replace(
    VIT,
    architectures={"DeiTModel": "embedding", "DeiTForImageClassification": "classification"},
    prefixes=("deit.",),
    second_token="embeddings.distillation_token",
)
DINOV2 = replace(
    VIT,
    architectures={"Dinov2Model": "embedding"},
    prefixes=("dinov2.",),
    keys={"groups": None, "head_dim": None, "d_ff": None},
    defaults={"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3, "mlp_ratio": 4},
    only={**VIT.only, "use_swiglu_ffn": False},
    # keys of training and of backbones for other tasks
    harmless=words(
        "layerscale_value drop_path_rate apply_layernorm reshape_hidden_states use_mask_token "
        "stage_names out_features out_indices intermediate_size"
    ),
    left_out=("embeddings.mask_token",),
    parts={
        "mixer_norm_in": "norm1",
        "ffn_norm_in": "norm2",
        "mixer.q_proj": "attention.attention.query",
        "mixer.k_proj": "attention.attention.key",
        "mixer.v_proj": "attention.attention.value",
        "mixer.o_proj": "attention.output.dense*layer_scale1.lambda1",
        "ffn.up_proj": "mlp.fc1",
        "ffn.down_proj": "mlp.fc2*layer_scale2.lambda1",
    },
    classifier=None,
)
BERTS = {
    "bert": BERT,
    "albert": ALBERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "camembert": CAMEMBERT,
    "data2vec-text": DATA2VEC,
    "roberta-prelayernorm": ROBERTA_PRE,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "mpnet": MPNET,
    "modernbert": MODERNBERT,
}
IMAGE_ENCODERS = {"vit": VIT, "vit_msn": VIT_MSN, "deit": DEIT, "dinov2": DINOV2}
