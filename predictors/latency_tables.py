"""Published tables of latencies: the formats that are read, and the features of a network in each format.

HW-GPT  embed_dim, n_layer, mlp_ratio and n_head (one value for each layer, joined by -), bias; a column
        lat_ms_median_DEVICE for each device
HAT     encoder and decoder widths, layers, average FFN widths and heads; the sum of latency_mean_encoder and
        latency_mean_decoder of one device, after which the file is named
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from predictors.fewshot import Features, Floats

HWGPT = ("embed_dim", "n_layer", "mlp_ratio", "n_head", "bias")
HWGPT_LATENCY = "lat_ms_median_"
HAT = (
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_embed_dim",
    "decoder_layer_num",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
)
HAT_LATENCY = ("latency_mean_encoder", "latency_mean_decoder")


@dataclass(frozen=True)
class LatencyTable:
    """`ms` are latencies [n] by device, nan where not measured; `baseline` [n, 12] the features of a plain ridge.

    `widths` [n] are the model widths; `architectures` are n texts, equal where the networks are equal.
    """

    form: str
    features: Features
    baseline: Floats
    widths: Floats
    architectures: tuple[str, ...]
    ms: Mapping[str, Floats]


def read_table(path: Path) -> LatencyTable:
    """Read a CSV file, which may be gzipped. Raises ValueError for another format, or for a cell that is no number."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = list(csv.DictReader(content.decode("utf-8").splitlines()))
    except (EOFError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} can't be read as a table: {error}") from None
    columns = set(rows[0]) if rows else set()
    try:
        if columns.issuperset(HWGPT) and any(c.startswith(HWGPT_LATENCY) for c in columns):
            return _hwgpt(rows)
        if columns.issuperset(HAT + HAT_LATENCY):
            return _hat(rows, path.name.split(".")[0])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a cell is not what its column says: {error}") from None
    raise ValueError(
        f"{path} has neither form of a latency table: HW-GPT has the columns {', '.join(HWGPT)} and "
        f"{HWGPT_LATENCY}DEVICE, HAT {HAT[0]}, ..., {', '.join(HAT_LATENCY)}"
    )


def _hwgpt(rows: Sequence[Mapping[str, str]]) -> LatencyTable:
    D, L = _column(rows, "embed_dim"), _column(rows, "n_layer")
    (ratio, ratio2), (heads, heads2) = (_joined(rows, name, L) for name in ("mlp_ratio", "n_head"))
    bias = np.array([float(row["bias"] == "True") for row in rows])
    products = [D * L, D * ratio, D * heads, D * D * L, D * D * ratio, D * bias, L * bias]
    baseline = np.column_stack([D, L, ratio, heads, bias, *products])
    terms = np.column_stack([baseline, ratio2, heads2])
    d, r, h = np.log(D), np.log(ratio / L), np.log(heads / L)
    factors = np.column_stack([d, d * d, np.log(L), r, h, bias, d * r, d * h, d * bias, d * np.log(L)])
    ms = {
        name.removeprefix(HWGPT_LATENCY): _column(rows, name)
        for name in rows[0]
        if name.startswith(HWGPT_LATENCY)
    }
    return LatencyTable("HW-GPT", Features(terms, factors), baseline, D, _names(rows, HWGPT), ms)


def _hat(rows: Sequence[Mapping[str, str]], device: str) -> LatencyTable:
    columns = [_column(rows, name) for name in HAT]
    De, Le, Fe, He, Dd, Ld, Fd, Hd, Hx, _ = columns
    baseline = np.column_stack([*columns, Ld * Dd, Ld * Fd])
    more = [Ld * Hd, Ld * Hx, Ld * Dd * Dd, Ld * Dd * Fd, Le * De * Fe, Ld * De]
    logs = [np.log(c) for c in (De, Fe, He, Dd, Ld, Fd, Hd, Hx)]
    factors = np.column_stack([*logs, logs[4] ** 2, logs[4] * logs[3], logs[4] * logs[5], 1 / Ld])
    terms = np.column_stack([baseline, *more])
    ms = {device: np.sum([_column(rows, name) for name in HAT_LATENCY], axis=0)}
    return LatencyTable("HAT", Features(terms, factors), baseline, Dd, _names(rows, HAT), ms)


def _names(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(",".join(row[name] for name in columns) for row in rows)


def _column(rows: Sequence[Mapping[str, str]], name: str) -> Floats:
    return np.array([float(row[name]) if row[name] else np.nan for row in rows])


def _joined(rows: Sequence[Mapping[str, str]], name: str, num_layers: Floats) -> tuple[Floats, Floats]:
    """Sums over the layers [n] of the values and of their squares, which express any cost of three distinct values."""
    found = [[float(value) for value in row[name].split("-")] for row in rows]
    for i, (values, count) in enumerate(zip(found, num_layers, strict=True)):
        if len(values) != count:
            raise ValueError(f"row {i + 1} has {len(values)} values of {name} for {count:g} layers")
    sums = np.array([[sum(values), sum(value**2 for value in values)] for values in found])
    return sums[:, 0], sums[:, 1]
