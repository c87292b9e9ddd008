"""Tables of individually trained networks: the truth against which cheaper judgements are compared.

A table is a folder: `recipe.toml` says how every network was trained, each `shard-*.csv` holds the rows of one run. A
later run adds a shard; all shards together are the table. Columns: arch_id, group, seed, parameters, flops, loss,
accuracy, curve (training losses, separated by spaces), seconds, arch (canonical JSON), rungs (held-out losses after
each of SHARES of the training, separated by spaces; missing in older tables).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance

from searchspace.spec.arch import ArchSpec
from studies.errors import StoreError

NEEDED = ("arch_id", "group", "seed", "parameters", "flops", "loss", "accuracy", "curve", "seconds", "arch")
COLUMNS = (*NEEDED, "rungs")
PROBE = "probe"


@dataclass(frozen=True)
class TruthRow:
    """One network trained from one seed. `group` is its size group, or PROBE for networks outside the groups.

    `rungs` are its held-out losses after SHARES of the training; empty where unknown.
    """

    arch: ArchSpec
    group: str
    seed: int
    parameters: int
    flops: int
    loss: float
    accuracy: float
    curve: tuple[float, ...]
    seconds: float
    rungs: tuple[float, ...] = ()

    def to_csv(self) -> dict[str, str]:
        return {
            "arch_id": self.arch.id,
            "group": self.group,
            "seed": str(self.seed),
            "parameters": str(self.parameters),
            "flops": str(self.flops),
            "loss": repr(self.loss),
            "accuracy": repr(self.accuracy),
            "curve": " ".join(f"{v:.5g}" for v in self.curve),
            "seconds": f"{self.seconds:.2f}",
            "arch": json.dumps(self.arch.to_json(), separators=(",", ":")),
            "rungs": " ".join(f"{v:.5g}" for v in self.rungs),
        }

    @classmethod
    def from_csv(cls, row: dict[str, str]) -> TruthRow:
        """Parse a row of a shard. Raises ValueError where the architecture does not match its id."""
        arch = ArchSpec.from_json(json.loads(row["arch"]))
        if arch.id != row["arch_id"]:
            raise ValueError(f"architecture {row['arch_id']} has the content of {arch.id}")
        return cls(
            arch,
            row["group"],
            int(row["seed"]),
            int(row["parameters"]),
            int(row["flops"]),
            float(row["loss"]),
            float(row["accuracy"]),
            tuple(float(v) for v in row["curve"].split()),
            float(row["seconds"]),
            tuple(float(v) for v in row.get("rungs", "").split()),
        )


def read_table(folder: Path) -> list[TruthRow]:
    """Return all rows of all shards, one per (architecture, seed). Raises StoreError naming what can't be read."""
    shards = sorted(folder.glob("shard-*.csv"))
    if not shards:
        raise StoreError(f"{folder} holds no truth table: no file shard-*.csv in it")
    rows: dict[tuple[str, int], TruthRow] = {}
    for shard in shards:
        for row in read_shard(shard):
            rows.setdefault((row.arch.id, row.seed), row)
    return list(rows.values())


def read_shard(shard: Path) -> list[TruthRow]:
    """Return the rows of one shard. Raises StoreError naming a missing column or an invalid line."""
    with shard.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in NEEDED if c not in (reader.fieldnames or ())]
        if missing:
            raise StoreError(f"{shard} is no shard of a truth table: it has no column {missing[0]}")
        try:
            return [TruthRow.from_csv(row) for row in reader]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{shard}, line {reader.line_num}: {error}") from error


def append(shard: Path, rows: Iterable[TruthRow]) -> None:
    """Append rows with the shard's columns. A killed run leaves whole lines or one partial last line, which `repair`
    drops.
    """
    header = _header(shard)
    with shard.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header or COLUMNS, extrasaction="ignore")
        if not header:
            writer.writeheader()
        writer.writerows(row.to_csv() for row in rows)


def _header(shard: Path) -> list[str]:
    """The column names of a shard; empty where the file is empty or missing."""
    if not shard.exists():
        return []
    with shard.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def repair(shard: Path) -> None:
    """Drop a partial last line that a killed run left. Raises StoreError, without changes, for another kind of file."""
    text, header = shard.read_bytes(), ",".join(NEEDED).encode()
    if not text.startswith(header) and not ",".join(COLUMNS).encode().startswith(text):
        raise StoreError(f"{shard} is no shard of a truth table: its columns are others; name another folder")
    if not text.endswith(b"\n"):
        os.truncate(shard, text.rfind(b"\n") + 1)


@dataclass(frozen=True)
class Noise:
    """Spread between seeds of one architecture, compared with the spread between architectures of one group.

    `seed_sd` pools the architectures that have several seeds. `groups` maps a group to the standard deviation of its
    architectures' losses, one seed each, which therefore includes the seed noise.
    """

    seed_sd: float
    num_repeated: int
    groups: dict[str, float]
    overall_sd: float

    @property
    def ratio(self) -> float:
        """Variance between architectures within groups, minus the seed variance, divided by the seed variance."""
        within = fmean(sd**2 for sd in self.groups.values())
        return (within - self.seed_sd**2) / self.seed_sd**2


def noise(rows: Sequence[TruthRow]) -> Noise:
    """Estimate the noise of a table with an architecture of several seeds and two architectures in every group.

    Raises StoreError where no architecture has several seeds.
    """
    by_arch: dict[str, list[TruthRow]] = {}
    for row in rows:
        by_arch.setdefault(row.arch.id, []).append(row)
    repeated = [[r.loss for r in found] for found in by_arch.values() if len(found) > 1]
    if not repeated:
        raise StoreError("the table has no architecture with several seeds: its noise is unknown")
    degrees = sum(len(losses) - 1 for losses in repeated)
    seed_sd = (sum(variance(losses) * (len(losses) - 1) for losses in repeated) / degrees) ** 0.5
    firsts = [min(found, key=lambda r: r.seed) for found in by_arch.values()]
    groups: dict[str, list[float]] = {}
    for row in firsts:
        groups.setdefault(row.group, []).append(row.loss)
    spread = {g: variance(v) ** 0.5 for g, v in groups.items() if g != PROBE and len(v) > 1}
    members = [row.loss for row in firsts if row.group != PROBE]
    return Noise(seed_sd, len(repeated), spread, variance(members) ** 0.5)
