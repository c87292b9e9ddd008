"""DeBERTa v1, v2 and v3 that are brought in compute what transformers computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.errors import UsageError
from nas.export.graph import trace
from nas.export.onnx_file import write_onnx
from nas.importing.load import import_model
from searchspace.ops.attention.disentangled_attention import rows_of_pairs
from searchspace.primitives.context import Tokens
from tests.nas.importing.test_families import FIVE, TEXT, check_equal, saved

BOTH = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
V1 = TEXT | BOTH | {"position_biased_input": False}  # as deberta-base
# As deberta-v3-base: 8 rows of a side, of which 4 are for more than one of the distances up to 31.
V3 = TEXT | {"relative_attention": True, "position_buckets": 8, "pos_att_type": "p2c|c2p"}
V3 |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}
V2 = TEXT | BOTH | {"type_vocab_size": 2}
OLD_HEAD = {"legacy": False}
MODELS: dict[str, dict[str, Any]] = {
    "DebertaModel": V1,
    "DebertaModel without attention to distances": TEXT,
    "DebertaModel with no kind of it": TEXT | {"relative_attention": True, "type_vocab_size": 3},
    "DebertaModel c2p": V1 | {"pos_att_type": ["c2p"], "type_vocab_size": 2},
    "DebertaModel p2c, short rows": V1 | {"pos_att_type": ["p2c"], "max_relative_positions": 4},
    "DebertaModel with positions": V2,
    "DebertaForMaskedLM": V1,
    "DebertaForMaskedLM with the first head": V1 | OLD_HEAD | {"hidden_act": "gelu_new"},
    "DebertaForSequenceClassification": V1 | FIVE,
    "DebertaForTokenClassification": V1 | FIVE | {"type_vocab_size": 2},
    "DebertaV2Model": V2,
    "DebertaV2Model without attention to distances": TEXT,
    "DebertaV2Model with no kind of it": V3 | {"pos_att_type": []},
    "DebertaV2Model c2p, single rows": V2 | {"pos_att_type": ["c2p"], "max_relative_positions": 6},
    "DebertaV2Model p2c, normed": V2 | {"pos_att_type": ["p2c"], "norm_rel_ebd": "layer_norm"},
    "DebertaV2Model with shared maps and one term": V3 | {"pos_att_type": ["p2c"], "type_vocab_size": 2},
    "DebertaV2Model with its own maps and odd buckets": V3
    | {"share_att_key": False, "position_buckets": 5, "max_relative_positions": 9},
    "DebertaV2Model as v3": V3,
    "DebertaV2ForMaskedLM": V3,
    "DebertaV2ForMaskedLM with the first head": V3 | OLD_HEAD,
    "DebertaV2ForMaskedLM untied": V3 | {"tie_word_embeddings": False},
    "DebertaV2ForSequenceClassification": V3 | FIVE | {"pooler_hidden_act": "tanh"},
    "DebertaV2ForTokenClassification": V3 | FIVE,
}
UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    (
        "DebertaV2Model",
        V3 | {"conv_kernel_size": 3},
        "conv_kernel_size is 3; the importer takes 0: no operator",
    ),
    ("DebertaModel", V1 | {"talking_head": True}, "talking_head is True"),
    ("DebertaModel", V1 | {"embedding_size": 16}, "embedding_size is 16; the importer takes 24"),
    ("DebertaModel", V1 | {"pos_att_type": ["c2p", "p2p"]}, r"pos_att_type is \['c2p', 'p2p'\]"),
    (
        "DebertaModel",
        TEXT | {"pos_att_type": ["c2p"]},
        r"pos_att_type is .* nothing where relative_attention",
    ),
    (
        "DebertaV2Model",
        V3 | {"position_buckets": 3},
        "position_buckets is 3; .* -1 for none, or 4 to 61",
    ),
    (
        "DebertaV2Model",
        V3 | {"max_relative_positions": 5},
        "position_buckets is 8; .* 4 to 7 with max_relative",
    ),
    ("DebertaV2Model", V3 | {"norm_rel_ebd": "rmsnorm"}, "norm_rel_ebd is 'rmsnorm'"),
    ("DebertaV2ForSequenceClassification", V3 | {"pooler_hidden_act": "silu"}, "pooler_hidden_act is 'silu'"),
    ("DebertaV2ForMultipleChoice", V3, r"architectures is \['DebertaV2ForMultipleChoice'\]"),
]


@pytest.mark.parametrize("name", MODELS)
def test_an_imported_deberta_computes_what_transformers_computes(name: str, tmp_path: Path):
    check_equal(name, saved(name, MODELS[name], tmp_path / "theirs"), tmp_path)


@pytest.mark.parametrize(("name", "config", "sentence"), UNSUPPORTED)
def test_what_is_not_computed_is_refused_by_key_and_value(
    name: str, config: dict[str, Any], sentence: str, tmp_path: Path
):
    saved(name, config, tmp_path / "theirs")
    with pytest.raises(UsageError, match=sentence):
        import_model(tmp_path / "theirs", tmp_path / "ours")


def test_a_range_of_distances_that_is_no_number_is_refused(tmp_path: Path):
    saved("DebertaV2Model", V3, tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    for key in ("max_relative_positions", "position_buckets"):
        path.write_text(json.dumps(config | {key: "far"}))
        with pytest.raises(UsageError, match=f"{key} is 'far'; the importer takes a whole number"):
            import_model(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize("name", ["DebertaModel", "DebertaV2ForMaskedLM", "MPNetForMaskedLM"])
@torch.no_grad()
def test_an_onnx_file_of_it_computes_padded_texts_of_any_length(name: str, tmp_path: Path):
    """MPNet's scores have a learned part by distance, too."""
    pytest.importorskip("onnxruntime")
    saved(name, MODELS.get(name, TEXT), tmp_path / "theirs")
    model = import_model(tmp_path / "theirs", tmp_path / "ours")[0].model()
    with torch.enable_grad():
        inputs = torch.randint(3, 61, (3, 17))
        graph = trace(model, inputs)
        run = write_onnx(graph, inputs, tmp_path / "model.onnx")
    assert graph.length is None
    for length in (5, 17, 30):
        texts, valid = torch.randint(3, 61, (2, length)), torch.ones(2, length, dtype=torch.bool)
        valid[1, length // 2 :] = False
        expected = model(texts, Tokens(valid=valid))[0]
        torch.testing.assert_close(run(texts, valid.long())[valid], expected[valid], rtol=1e-4, atol=1e-4)


def test_heads_beside_a_published_transformer_are_left_out_and_said_so(tmp_path: Path):
    """The file of v3 has the heads of its training and a config that names no class."""
    from safetensors.torch import load_file, save_file

    saved("DebertaV2ForMaskedLM", V3 | OLD_HEAD, tmp_path / "theirs")
    path, file = tmp_path / "theirs" / "config.json", tmp_path / "theirs" / "model.safetensors"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in ("architectures", "legacy")}))
    more = {"mask_predictions.dense.weight": torch.zeros(2, 2)}
    more |= {"deberta.embeddings.position_embeddings.weight": torch.zeros(32, 24)}
    save_file(load_file(file) | more, file, {"format": "pt"})
    ours, notes = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert ours.arch.task == "embedding"
    (note,) = [n for n in notes if n.startswith("left out")]
    for name in ("lm_predictions.lm_head.dense", "mask_predictions.dense", "embeddings.position_embeddings"):
        assert name in note


@pytest.mark.parametrize(("buckets", "farthest"), [(256, 512), (32, 128), (5, 9), (9, 600), (128, 512)])
def test_logarithmic_rows_are_those_of_transformers(buckets: int, farthest: int):
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    places = torch.arange(520)
    theirs = make_log_bucket_position(places[:, None] - places[None, :], buckets, farthest).long()
    theirs = (theirs + buckets).clamp(0, 2 * buckets - 1)
    ours = rows_of_pairs(520, buckets, buckets, farthest, torch.device("cpu"))
    of_theirs = torch.cat((torch.arange(2 * buckets - 1, buckets - 1, -1), torch.arange(buckets)))
    assert torch.equal(of_theirs[theirs], ours)
