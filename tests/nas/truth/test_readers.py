"""Tables of networks are read into one type, with their traps handled and said."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UsageError
from nas.truth.published import attention, bert_parameters
from nas.truth.readers import read, spread
from searchspace.cost import cost
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid
from studies.agreement import statistics

DATA = Path(__file__).parents[2] / "data"


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="") as file:
        return list(csv.DictReader(file))


def tau(judgement: np.ndarray, quality: np.ndarray) -> float:
    return float(statistics(judgement, quality, np.arange(len(quality))[None])[0, 0])


def test_encoders_of_nasbench_bert_are_built_with_attention_in_every_layer():
    table = read(DATA / "nasbench_bert_excerpt.json")
    assert len(table.archs) == len(table.quality) == 12
    assert {b.mixer.op for arch in table.archs for b in arch.blocks} == {"softmax_attention"}
    assert all(why_invalid(arch) is None for arch in table.archs)
    assert set(table.strata) == {"2 layers", "4 layers"}


def test_parameters_of_nasbench_bert_are_those_that_its_table_states():
    entries = {e["id"]: e for e in json.loads((DATA / "nasbench_bert_excerpt.json").read_text())}
    stated = {int(r["id"]): int(r["P_tf"]) for r in rows("nasbench_bert_excerpt.csv")}
    both = entries.keys() & stated.keys()
    assert both
    assert {i: bert_parameters(entries[i]) for i in both} == {i: stated[i] for i in both}


def test_a_false_zero_is_left_out_and_said(tmp_path: Path):
    entries = json.loads((DATA / "nasbench_bert_excerpt.json").read_text())
    entries[3]["scores"]["rte"] = 0.0
    path = tmp_path / "table.json"
    path.write_text(json.dumps(entries))
    table = read(path)
    assert len(table.quality) == 11
    assert "1 networks are left out: an RTE accuracy of 0 is no measurement" in table.notes


def test_a_cola_score_of_zero_is_kept():
    # It is a Matthews correlation: 0 is what a network without skill gets.
    assert len(read(DATA / "nasbench_bert_excerpt.csv").quality) == len(rows("nasbench_bert_excerpt.csv"))


def test_published_correlations_come_out_again():
    # Serianni and Kalita's stored values on half of their 500 networks: tau .454, .478 and .222 on all of them.
    table = read(DATA / "nasbench_bert_proxies_excerpt.csv")
    found = {
        "parameters": tau(table.baselines["parameters"], table.quality),
        **{
            name: tau(table.columns[name], table.quality)
            for name in ("Head Confidence", "Activation Distance")
        },
    }
    expected = {"parameters": 0.454, "Head Confidence": 0.478, "Activation Distance": 0.222}
    assert found == pytest.approx(expected, abs=0.04)


def test_hidden_covariance_leads_on_recurrent_networks():
    # On all 8,794 networks its tau is .372 and that of the Jacobian's covariance .003, signs removed.
    table = read(DATA / "nasbench_nlp_excerpt.csv")
    taus = {name: abs(tau(values, table.quality)) for name, values in table.columns.items()}
    assert max(taus, key=lambda name: taus[name]) == "Layer 1 Hidden Covariance"
    assert taus["Layer 1 Hidden Covariance"] == pytest.approx(0.372, abs=0.08)
    assert taus["Jacobian Covariance"] < 0.08


def test_decoders_of_lts_have_the_attention_that_their_table_states():
    table = read(DATA / "lts_gpt2_excerpt.csv")
    for arch, row in zip(table.archs, rows("lts_gpt2_excerpt.csv"), strict=True):
        assert why_invalid(arch) is None
        assert [b.mixer for b in arch.blocks] == [
            attention(h, arch.d_model) for h in json.loads(row["cfg_n_head"])
        ]
        embeddings = arch.d_model * (2 * 256 + 192)
        built = cost(arch, Workload()).parameters - embeddings
        assert built == pytest.approx(float(row["params_nonembedding"]), rel=0.01)


def test_a_supernet_table_says_that_nothing_was_trained_alone():
    table = read(DATA / "hwgpt_s.csv.gz")
    assert len(table.quality) == 10_000
    assert "inherited from a supernet" in table.notes[0]
    some = table.take(spread(10_000, 50))
    assert len(some.quality) == len(some.strata) == len(some.baselines["depth"]) == 50


def test_any_csv_with_architectures_of_ours_is_a_table(tmp_path: Path):
    archs = read(DATA / "lts_gpt2_excerpt.csv").archs[:6]
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("arch", "perplexity"))
        writer.writerows((json.dumps(arch.to_json()), 30 + i) for i, arch in enumerate(archs))
    table = read(path)
    assert [arch.id for arch in table.archs] == [arch.id for arch in archs]
    assert table.quality.tolist() == [-30, -31, -32, -33, -34, -35]


def test_networks_without_a_quality_are_left_out_and_said(tmp_path: Path):
    text = (DATA / "nasbench_nlp_excerpt.csv").read_text().splitlines()
    cells = text[3].split(",")
    path = tmp_path / "table.csv"
    path.write_text("\n".join([*text[:3], ",".join([cells[0], "", *cells[2:]]), *text[4:]]))
    table = read(path)
    assert len(table.quality) == 219
    assert "1 networks are left out: the table has no quality for them" in table.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "it has no rows"), ("a,b\n1,2\n", "no known form"), ("arch,loss\n{},1\n", "--table")],
)
def test_a_file_that_is_no_table_is_refused_in_a_sentence(tmp_path: Path, text: str, message: str):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="there is no such file or folder"):
        read(tmp_path / "none.csv")
