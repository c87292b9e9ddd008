"""Reads tables of networks of known quality, our own and published ones, into one type.

    a folder of shards      `nas truth build`
    CSV with a column arch  our canonical JSON, with loss, perplexity or accuracy, and optionally group
    nasbench_bert json      NAS-Bench-BERT: architectures and eight GLUE scores
    nasbench_bert csv       NAS-Bench-BERT: a summary per network, without architectures
    published proxies csv   NAS-Bench-BERT: proxy values stored by its authors
    nasbench_nlp csv        recurrent networks: values and perplexity, without architectures
    lts csv                 GPT-2-like decoders of LiteTransformerSearch
    hwgpt csv               decoders of HW-GPT-Bench, quality from a supernet

A published form is recognized by its columns, so tables with other rows of it can be read too.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError
from nas.truth import published
from nas.truth.structure import baselines, depth_then_width
from searchspace.spec.arch import ArchSpec
from studies.agreement import MIN_STRATUM, Floats, quintiles
from studies.errors import StoreError
from studies.truth import PROBE, TruthRow, noise, read_shard, read_table

Rows = list[dict[str, str]]


TRUTH = "truth table"  # the form of our own tables


@dataclass(frozen=True, eq=False)
class Table:
    """A table of n networks. `quality` [n] is better if higher; `columns`, [n] each, are judgements of unknown
    direction stored in the table; `archs` is empty if networks can't be built. `curves` [n, points] are training losses
    in nats, `rungs` [n, len(SHARES)] held-out losses during training, `seed_sd` the standard deviation of the quality
    over seeds.
    """

    form: str
    quality_name: str
    quality: Floats
    strata: list[str]
    baselines: dict[str, Floats]
    columns: dict[str, Floats] = field(default_factory=dict)
    archs: list[ArchSpec] = field(default_factory=list)
    curves: Floats | None = None
    rungs: Floats | None = None
    seed_sd: float | None = None
    notes: list[str] = field(default_factory=list)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """A table of the networks at the indices rows [m]."""
        return replace(
            self,
            quality=self.quality[rows],
            strata=[self.strata[i] for i in rows],
            baselines={n: v[rows] for n, v in self.baselines.items()},
            columns={n: v[rows] for n, v in self.columns.items()},
            archs=[self.archs[i] for i in rows] if self.archs else [],
            curves=None if self.curves is None else self.curves[rows],
            rungs=None if self.rungs is None else self.rungs[rows],
        )


def spread(n: int, count: int) -> NDArray[np.int64]:
    """At most `count` evenly spaced indices of n rows, [min(n, count)]."""
    return np.linspace(0, n - 1, min(n, count)).round().astype(np.int64)


def read(path: Path) -> Table:
    """The table at `path`, without networks of unknown quality. Raises UsageError for an unknown form or few rows."""
    table = _read(path)
    known = np.flatnonzero(np.isfinite(table.quality))
    if dropped := len(table.quality) - len(known):
        note = f"{dropped} networks are left out: the table has no quality for them"
        table = replace(table.take(known), notes=[*table.notes, note])
    if len(known) < MIN_STRATUM:
        raise UsageError(
            f"--table {path}: it has {len(known)} networks with a quality, at least {MIN_STRATUM} are needed"
        )
    return table


def _read(path: Path) -> Table:
    if path.is_dir():
        return from_truth(read_table(path))
    if not path.exists():
        raise UsageError(f"--table {path}: there is no such file or folder")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", newline="", encoding="utf-8") as file:
            if ".json" in path.suffixes:
                return _bert(json.load(file))
            csv.field_size_limit(10_000_000)
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise UsageError(f"--table {path}: can't be read as a table ({error})") from error
    if not rows:
        raise UsageError(f"--table {path}: it has no rows")
    if {"arch", "arch_id", "curve", "seed"} <= set(rows[0]) and path.suffix == ".csv":
        return from_truth(read_shard(path))
    for needed, form in FORMS:
        if set(needed) <= set(rows[0]):
            try:
                return form(rows)
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"--table {path}: {error}") from error
    known = "; ".join(", ".join(needed) for needed, _ in FORMS)
    raise UsageError(f"--table {path}: no known form; a CSV has the columns of one of these: {known}")


def from_truth(rows: Sequence[TruthRow]) -> Table:
    """Our own table, with the mean loss of each architecture over seeds and without probes.

    Raises UsageError if there are only probes.
    """
    by_arch: dict[str, list[TruthRow]] = {}
    for row in rows:
        if row.group != PROBE:
            by_arch.setdefault(row.arch.id, []).append(row)
    if not by_arch:
        raise UsageError("the table holds only probes; train further architectures")
    found = list(by_arch.values())
    num_probes = len({r.arch.id for r in rows if r.group == PROBE})
    try:
        seed_sd = noise(rows).seed_sd
    except StoreError:
        seed_sd = None
    archs = [of_arch[0].arch for of_arch in found]
    return Table(
        TRUTH,
        "loss in nats, negated",
        np.array([-np.mean([r.loss for r in of_arch]) for of_arch in found]),
        [f"{int(of_arch[0].group):,} parameters" for of_arch in found],
        baselines(archs),
        archs=archs,
        curves=_mean_of_seeds([[r.curve for r in of_arch] for of_arch in found]),
        rungs=_mean_of_seeds([[r.rungs for r in of_arch] for of_arch in found]),
        seed_sd=seed_sd,
        notes=[f"{num_probes} probes are left out: they stand apart by design"] if num_probes else [],
    )


def _mean_of_seeds(found: Sequence[Sequence[tuple[float, ...]]]) -> Floats | None:
    """The mean over seeds [architectures, points]; None if there are no points, or different numbers of them."""
    lengths = {len(points) for of_arch in found for points in of_arch}
    return (
        np.array([np.mean(of_arch, axis=0) for of_arch in found])
        if len(lengths) == 1 and lengths != {0}
        else None
    )


def _ours(rows: Rows) -> Table:
    name, sign = next((n, s) for n, s in (("loss", -1), ("perplexity", -1), ("accuracy", 1)) if n in rows[0])
    archs = [ArchSpec.from_json(json.loads(row["arch"])) for row in rows]
    structure = baselines(archs)
    groups = [r["group"] for r in rows] if "group" in rows[0] else quintiles(structure["parameters"])
    quality = sign * _floats(rows, name)
    return Table(
        "architectures of ours", name + ", negated" * (sign < 0), quality, groups, structure, archs=archs
    )


def _bert(entries: list[Mapping[str, Any]]) -> Table:
    try:
        kept = [e for e in entries if e["scores"]["rte"] > 0]
        archs = [published.bert_encoder(e) for e in kept]
        quality = np.array([float(e["scores"]["glue"]) for e in kept])
        parameters = np.array([published.bert_parameters(e) for e in kept], dtype=float)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the table is no NAS-Bench-BERT: an entry lacks {error}; it needs hidden_size, "
            "encoder_layers and scores with rte and glue"
        ) from error
    dropped = len(entries) - len(kept)
    notes = [
        "architectures and GLUE scores: NAS-Bench-BERT, Serianni and Kalita 2023, CC BY 4.0",
        "every layer is built as softmax attention: the published training did not apply the mixer's gene",
        *_dropped(dropped),
    ]
    known = baselines(archs) | {"parameters": parameters}
    del known["state_bytes"]  # an encoder has none
    strata = [f"{len(arch.blocks)} layers" for arch in archs]
    return Table("nasbench_bert", "mean GLUE score", quality, strata, known, archs=archs, notes=notes)


def _bert_summary(rows: Rows) -> Table:
    kept = [r for r in rows if float(r["t_rte"]) > 0]
    depth, width = _floats(kept, "layers"), _floats(kept, "hidden")
    known = {
        "parameters": _floats(kept, "P_tf"),
        "depth": depth,
        "depth_then_width": depth_then_width(depth, width),
    }
    others = ("P_nominal", "time", "hidden", "heads", "nff3", "ffd", "n_SDP", "n_WMA", "n_DFT", "n_DCT")
    columns = {name: _floats(kept, name) for name in others if name in kept[0]}
    notes = [
        "the rows carry no architectures: the table with them is the JSON form",
        *_dropped(len(rows) - len(kept)),
    ]
    strata = [f"{d:.0f} layers" for d in depth]
    return Table(
        "nasbench_bert csv", "mean GLUE score", _floats(kept, "t_glue"), strata, known, columns, notes=notes
    )


def _dropped(count: int) -> list[str]:
    return [f"{count} networks are left out: an RTE accuracy of 0 is no measurement"] if count else []


def _published_proxies(rows: Rows) -> Table:
    columns = _other_columns(rows, ("ID", "GLUE Score", "Number of Parameters"))
    parameters = _floats(rows, "Number of Parameters")
    note = "the stored values were computed on networks of one width: a test of the statistics, not of the proxies"
    return Table(
        "nasbench_bert published proxies",
        "mean GLUE score",
        _floats(rows, "GLUE Score"),
        quintiles(parameters),
        {"parameters": parameters},
        columns,
        notes=[note],
    )


def _recurrent(rows: Rows) -> Table:
    columns = _other_columns(rows, ("log name", "loss", "perplexity", "bits per word"))
    note = "the rows carry neither architectures nor their sizes: no baselines and one stratum"
    return Table(
        "nasbench_nlp",
        "loss, negated",
        -_floats(rows, "loss"),
        ["all"] * len(rows),
        {},
        columns,
        notes=[note],
    )


def _lts(rows: Rows) -> Table:
    archs = [published.lts_decoder(row) for row in rows]
    known = baselines(archs) | {"parameters": _floats(rows, "params_nonembedding")}
    columns = {
        name: _floats(rows, name) for name in ("params_Attn", "params_FFN", "params_AdaEmb", "params_total")
    }
    notes = [
        "parameters without embeddings; networks are built with 256 tokens and without adaptive embeddings"
    ]
    quality = -_floats(rows, "ppl_valid_ppl")
    return Table(
        "lts gpt2",
        "perplexity, negated",
        quality,
        quintiles(known["parameters"]),
        known,
        columns,
        archs,
        notes=notes,
    )


def _hwgpt(rows: Rows) -> Table:
    depth, width = _floats(rows, "n_layer"), _floats(rows, "embed_dim")
    known = {
        name: _floats(rows, old)
        for name, old in (("parameters", "params"), ("flops", "flops"))
        if old in rows[0]
    }
    known |= {"depth": depth, "depth_then_width": depth_then_width(depth, width)}
    notes = ["quality is inherited from a supernet, not trained; the networks are not built"]
    strata = [f"width {w:.0f}" for w in width]
    columns = {
        "embed_dim": width,
        "mlp_ratio sum": np.array([sum(map(float, r["mlp_ratio"].split("-"))) for r in rows]),
        "n_head sum": np.array([sum(map(float, r["n_head"].split("-"))) for r in rows]),
    }
    return Table(
        "hwgpt", "perplexity, negated", -_floats(rows, "perplexity"), strata, known, columns, notes=notes
    )


def _floats(rows: Rows, name: str) -> Floats:
    """A column [n], nan for empty cells. Raises ValueError naming the column if a cell holds no number."""
    try:
        return np.array([float(row[name] or "nan") for row in rows])
    except ValueError as error:
        raise ValueError(f"column {name}: {error}") from error


def _other_columns(rows: Rows, without: Sequence[str]) -> dict[str, Floats]:
    return {name: _floats(rows, name) for name in rows[0] if name not in without}


FORMS: tuple[tuple[tuple[str, ...], Callable[[Rows], Table]], ...] = (
    (("arch", "loss"), _ours),
    (("arch", "perplexity"), _ours),
    (("arch", "accuracy"), _ours),
    (("GLUE Score", "Number of Parameters"), _published_proxies),
    (("log name", "loss", "Layer 1 Hidden Covariance"), _recurrent),
    (("cfg_n_layer", "cfg_d_inner", "cfg_n_head", "ppl_valid_ppl"), _lts),
    (("hidden", "layers", "t_glue", "t_rte", "P_tf"), _bert_summary),
    (("embed_dim", "n_layer", "mlp_ratio", "n_head", "perplexity"), _hwgpt),
)
