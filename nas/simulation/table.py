"""A table of measured architectures as a search space: each row has the decisions and quantities of one architecture.

Columns of decisions are recognized by name and form, as in HW-GPT-Bench (Sukthanker et al., 2024): `embed_dim`,
`n_layer`, columns with one number per layer joined by `-` (mlp_ratio, n_head), and columns of True and False (bias).
The values that occur are the choices. Every other column of numbers is a quantity that may be an objective.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError
from searchspace.spec.arch import OpSpec
from searchspace.spec.genome import Encoding, Genomes
from searchspace.spec.space import BlockSpace, Candidate, Choice, Slot, SpaceSpec, StageSpace

WIDTH, DEPTH = "embed_dim", "n_layer"
MIN_ROWS = 20
MISSING = ("", "-", "na", "n/a", "null", "none")  # in addition to what float() reads as nan
_PER_LAYER = re.compile(r"\d+(\.\d+)?(-\d+(\.\d+)?)*")
_SWITCH = {"True": True, "False": False}

Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Table:
    """Distinct canonical `genomes` [n, V] and `quantities` by name, [n] each, averaged over repeated rows.

    A quantity is nan if none of the architecture's rows has it.
    """

    name: str
    digest: str
    encoding: Encoding
    genomes: Genomes
    quantities: dict[str, NDArray[np.float64]]


def load_table(path: str | Path) -> Table:
    """Read a .csv or .csv.gz file. Raises UsageError naming the line and column of an invalid cell."""
    path = Path(path)
    text = _read(path)
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) < MIN_ROWS:
        raise UsageError(f"--table {path}: at least {MIN_ROWS} rows are needed, it has {len(rows)}")
    for name in (WIDTH, DEPTH):
        if name not in rows[0]:
            raise UsageError(
                f"--table {path}: no column {name}; an architecture needs {WIDTH}, {DEPTH} and columns that hold one "
                f"number for each layer, joined by -, such as mlp_ratio and n_head"
            )
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UsageError(
                f"--table {path}, line {line}: its number of cells is not that of the first line"
            )
    columns = list(rows[0])
    layered = [c for c in columns if c != DEPTH and _is_per_layer([r[c] for r in rows])]
    switches = [c for c in columns if {r[c] for r in rows} <= _SWITCH.keys()]
    encoding = Encoding(_space(path, rows, layered, switches))
    genomes, inverse = np.unique(
        _genomes(path, encoding, rows, layered, switches), axis=0, return_inverse=True
    )
    quantities = {}
    for column in columns:
        if (
            column not in (WIDTH, DEPTH, *layered, *switches)
            and (values := _numbers(rows, column)) is not None
        ):
            quantities[column] = _means(values, inverse.reshape(-1), len(genomes))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Table(path.name, digest, encoding, genomes, quantities)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"--table {path}: no readable .csv or .csv.gz file ({error})") from error


def _is_per_layer(cells: Sequence[str]) -> bool:
    return any("-" in c for c in cells) and all(_PER_LAYER.fullmatch(c) for c in cells)


def _means(values: NDArray[np.float64], places: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Means [size] of the finite values [n] by their places [n]; nan for a place without one."""
    known = np.isfinite(values)
    counts = np.bincount(places[known], minlength=size)
    sums = np.bincount(places[known], values[known], minlength=size)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return means


def _numbers(rows: Rows, column: str) -> NDArray[np.float64] | None:
    """The numbers [n] of a column, nan for missing ones; None if it holds other text, or no number."""
    try:
        values = np.array(
            [np.nan if r[column].strip().lower() in MISSING else float(r[column]) for r in rows]
        )
    except ValueError:
        return None
    values[~np.isfinite(values)] = np.nan
    return None if np.isnan(values).all() else values


def _space(path: Path, rows: Rows, layered: Sequence[str], switches: Sequence[str]) -> SpaceSpec:
    """The space of the table: each layer offers the values of all layers of all rows; switches apply to all layers."""
    depths = sorted({_integer(path, line, DEPTH, r[DEPTH]) for line, r in enumerate(rows, start=2)})
    widths = sorted({_integer(path, line, WIDTH, r[WIDTH]) for line, r in enumerate(rows, start=2)})
    items = tuple(
        (c, Choice(tuple(sorted({v for r in rows for v in _layers(r[c])})))) for c in sorted(layered)
    )
    shared = tuple((c, Choice(tuple(sorted({_SWITCH[r[c]] for r in rows})))) for c in sorted(switches))
    fixed = Slot.fixed("none")
    block = BlockSpace(
        mixer=Slot((Candidate("layer", items),)),
        ffn=fixed,
        norm=fixed,
        projection=Slot((Candidate("dense", shared),), shared=True),
        placement=Choice(("pre",)),
    )
    return SpaceSpec(
        name=path.name.removesuffix(".gz").removesuffix(".csv"),
        version=1,
        task="causal_lm",
        data="",
        stem=OpSpec("none"),
        head=OpSpec("none"),
        d_model=Choice(tuple(widths)),
        stages=(StageSpace((block,) * max(depths), Choice(tuple(depths))),),
    )


def _integer(path: Path, line: int, column: str, cell: str) -> int:
    if not cell.isdecimal() or not 0 < int(cell) <= 100_000:
        raise UsageError(
            f"--table {path}, line {line}: {column} is {cell!r}; give a positive integer of at most 100000"
        )
    return int(cell)


def _layers(cell: str) -> list[float | int]:
    return [float(v) if "." in v else int(v) for v in cell.split("-")]


def _genomes(
    path: Path, encoding: Encoding, rows: Rows, layered: Sequence[str], switches: Sequence[str]
) -> Genomes:
    index = {v.name: i for i, v in enumerate(encoding.variables)}
    position = [{value: k for k, value in enumerate(v.values)} for v in encoding.variables]
    genomes = np.zeros((len(rows), len(encoding)), dtype=np.int64)
    for genes, (line, row) in zip(genomes, enumerate(rows, start=2), strict=True):
        found: dict[str, float] = {"d_model": int(row[WIDTH]), "stages.0.depth": int(row[DEPTH])}
        found |= {f"stages.0.blocks.*.projection.dense.{c}": _SWITCH[row[c]] for c in switches}
        for column in layered:
            values = _layers(row[column])
            if len(values) != int(row[DEPTH]):
                raise UsageError(
                    f"--table {path}, line {line}: {column} has {len(values)} layers, {DEPTH} says {row[DEPTH]}"
                )
            found |= {f"stages.0.blocks.{i}.mixer.layer.{column}": v for i, v in enumerate(values)}
        for name, value in found.items():
            genes[index[name]] = position[index[name]][value]
    return encoding.canonical(genomes)
