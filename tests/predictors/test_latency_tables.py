"""Both forms of a published table, and the sentences for what is neither."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from predictors.latency_tables import read_table

DATA = Path(__file__).parents[1] / "data" / "latency"


def test_a_table_of_the_hwgpt_form_has_every_device_and_sums_over_layers(tmp_path):
    path = tmp_path / "mine.csv.gz"
    text = "embed_dim,n_layer,mlp_ratio,n_head,bias,lat_ms_median_abacus,lat_ms_median_b\n"
    text += "192,3,2-3-4,4-8-12,True,10.5,1\n1280,2,2-2,16-16,False,,2\n"
    path.write_bytes(gzip.compress(text.encode()))
    found = read_table(path)
    assert (found.form, list(found.ms)) == ("HW-GPT", ["abacus", "b"])
    assert found.ms["abacus"][0] == 10.5
    assert np.isnan(found.ms["abacus"][1])
    assert found.baseline.shape == (2, 12)
    assert found.baseline[0, :5].tolist() == [192, 3, 9, 24, 1]
    assert found.features.terms[0, 12:].tolist() == [4 + 9 + 16, 16 + 64 + 144]
    assert found.widths.tolist() == [192, 1280]


def test_a_table_of_the_hat_form_adds_encoder_and_decoder():
    found = read_table(DATA / "hat_cpu_xeon.csv")
    assert (found.form, list(found.ms)) == ("HAT", ["hat_cpu_xeon"])
    assert found.baseline.shape == (200, 12)
    first = (DATA / "hat_cpu_xeon.csv").read_text().splitlines()[1].split(",")
    assert found.ms["hat_cpu_xeon"][0] == pytest.approx(float(first[-2]) + float(first[-1]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "has neither form of a latency table"),
        ("", "has neither form"),
        ("embed_dim,n_layer,mlp_ratio,n_head,bias\n192,1,2,4,True\n", "has neither form"),
        (
            "embed_dim,n_layer,mlp_ratio,n_head,bias,lat_ms_median_a\n192,2,2,4,True,1\n",
            "1 values of mlp_ratio for 2",
        ),
        ("embed_dim,n_layer,mlp_ratio,n_head,bias,lat_ms_median_a\nbig,1,2,4,True,1\n", "a cell is not what"),
    ],
)
def test_what_has_neither_form_is_refused_with_a_sentence(tmp_path, text, reason):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_table(path)
    with pytest.raises(ValueError, match="can't be read as a table"):
        read_table(tmp_path / "absent.csv")
