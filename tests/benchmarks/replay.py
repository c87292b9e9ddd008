"""Which networks to continue training, replayed on tables with recorded losses and seconds.

    guided     nas/searchers/guided/climbing.py: the largest expected gain, in full at once; then halving
    halving    half of the networks that reached a rung continue, by rank
    in full    each network to its end, in order of arrival

Networks arrive in an order drawn SEEDS times; a search would choose them, which a table can't show. The figure is the
hypervolume of (loss, FLOPs) of the fully trained networks after a share of the table's total seconds, relative to that
of the whole table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from nas.searchers.base import Observation
from nas.searchers.guided.climbing import climb
from nas.searchers.guided.evidence import Evidence, gather
from nas.searchers.guided.features import Features
from nas.searchers.guided.model import Model, Modeller
from nas.searchers.ranking import positions
from nas.truth.readers import Table, read
from searchspace.load import load_space
from searchspace.spec.genome import Encoding, Genome
from studies.fidelity import SHARES
from studies.pareto import Points, hypervolume
from studies.truth import read_table
from tests.benchmarks.rows import Row

TABLES = Path("studies/results/truth")
SPACES = ("tiny-lm", "tiny-vision", "small-lm")
RUNGS = (*SHARES, "")
DONE = [0.0, *SHARES.values(), 1.0]
PARTS = (0.05, 0.1, 0.2, 0.4)
AT_ONCE, FIRST, SEEDS = 5, 10, 20


@dataclass(frozen=True)
class Trained:
    """A table of n networks: `losses` [n, len(RUNGS)] at each rung, `points` [n, 2] of final loss and log FLOPs."""

    table: Table
    encoding: Encoding
    genomes: list[Genome]
    losses: Points
    seconds: np.ndarray

    @classmethod
    def of(cls, space: str) -> Trained:
        table, encoding = read(TABLES / space), Encoding(load_space(space))
        rungs = table.rungs
        if rungs is None:  # the mean training loss of the eighth that ends there, which is less informative
            assert table.curves is not None
            rungs = table.curves[:, [round(done * table.curves.shape[1]) - 1 for done in DONE[1:-1]]]
        took: dict[str, list[float]] = {}
        for row in read_table(TABLES / space):
            took.setdefault(row.arch.id, []).append(row.seconds)
        return cls(
            table,
            encoding,
            [encoding.encode(arch) for arch in table.archs],
            np.column_stack([rungs, -table.quality]),
            np.array([np.mean(took[arch.id]) for arch in table.archs]),
        )

    @cached_property
    def points(self) -> Points:
        return np.column_stack([self.losses[:, -1], np.log(self.table.baselines["flops"])])

    @cached_property
    def index(self) -> dict[Genome, int]:
        return {genome: i for i, genome in enumerate(self.genomes)}

    @cached_property
    def features(self) -> Features:
        return Features(self.encoding)

    def share(self, rows: list[int]) -> float:
        """Return the hypervolume of some networks below the table's worst values, relative to that of all."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        scaled = (self.points - low) / (high - low)
        one = np.ones(2)
        return hypervolume(scaled[rows], one) / hypervolume(scaled, one) if rows else 0.0


@dataclass
class Replay:
    """State of a replay; `at` [n] is the rung that each network reached, -1 for none."""

    trained: Trained
    told: list[Observation] = field(default_factory=list)
    spent: float = 0.0  # in full trainings
    seconds: float = 0.0
    full: list[tuple[float, int]] = field(default_factory=list)  # (time, network)

    def __post_init__(self) -> None:
        self.at = np.full(len(self.trained.genomes), -1)
        self.modeller = Modeller(self.trained.features)

    def price(self, i: int, rung: int) -> float:
        """Return the share of a full training that takes network i to a rung."""
        return DONE[rung + 1] - DONE[self.at[i] + 1]

    def judge(self, i: int, rung: int) -> None:
        part = self.price(i, rung)
        self.spent += part
        self.seconds += part * self.trained.seconds[i]
        self.at[i] = rung
        losses = np.array([self.trained.losses[i, rung], self.trained.points[i, 1]])
        self.told.append(
            Observation(len(self.told), self.trained.genomes[i], losses, 0.0, "complete", RUNGS[rung])
        )
        if not RUNGS[rung]:
            self.full.append((self.seconds, i))

    def belief(self) -> tuple[Evidence, Model | None]:
        evidence = gather(self.told, RUNGS, frozenset({0}))
        return evidence, self.modeller.fit(evidence.rows, evidence.stds)

    def climbs(self) -> list[tuple[int, int]]:
        """Return (network, next rung) of the networks that continue."""
        evidence, model = self.belief()
        if model is None:
            return []
        prices = np.array([self.trained.seconds[self.trained.index[row.genome]] for row in evidence.rows])
        chosen = climb(evidence, model, [], RUNGS, (), AT_ONCE, prices=prices)
        return [(self.trained.index[row.genome], RUNGS.index(rung)) for row, rung in chosen]

    def halves(self) -> list[tuple[int, int]]:
        for rung in range(len(RUNGS) - 2, -1, -1):
            arrived = [t for t in self.told if t.fidelity == RUNGS[rung]]
            if int((self.at > rung).sum()) < len(arrived) // 2:
                order = np.argsort(positions(arrived, np.random.default_rng(len(arrived))))
                best = (self.trained.index[arrived[k].genome] for k in order)
                return [(next(i for i in best if self.at[i] == rung), rung + 1)]
        return []


def _guided(replay: Replay, come: list[int]) -> list[tuple[int, int]]:
    chosen = replay.climbs()
    return chosen + [(i, 0) for i in come[: AT_ONCE - len(chosen)]]


def _halving(replay: Replay, come: list[int]) -> list[tuple[int, int]]:
    return replay.halves() or [(i, 0) for i in come[:1]]


def _in_full(replay: Replay, come: list[int]) -> list[tuple[int, int]]:
    return [(i, len(RUNGS) - 1) for i in come[:1]]


METHODS: dict[str, Callable[[Replay, list[int]], list[tuple[int, int]]]] = {
    "guided": _guided,
    "halving": _halving,
    "in full": _in_full,
}


def run() -> list[Row]:
    rows = []
    for space in SPACES:
        if not (TABLES / space).is_dir():
            continue
        trained = Trained.of(space)
        shares = {
            method: np.array([_shares(trained, method, seed) for seed in range(SEEDS)]) for method in METHODS
        }
        for p, part in enumerate(PARTS):
            trivial = f"in full {np.median(shares['in full'][:, p]):.2f}"
            for method in ("guided", "halving"):
                found = shares[method][:, p]
                name = f"{space}, {method} after {part:.0%} of the table's seconds"
                rows.append(
                    Row(name, float(np.median(found)), found.min(), found.max(), "of its front", "", trivial)
                )
    return rows


def _shares(trained: Trained, method: str, seed: int) -> list[float]:
    """The relative hypervolume after each of PARTS."""
    replay, ends = Replay(trained), [part * float(trained.seconds.sum()) for part in PARTS]
    come = np.random.default_rng(seed).permutation(len(trained.genomes)).tolist()
    if method != "in full":
        for i in come[:FIRST]:
            replay.judge(i, 0)
    while replay.seconds < ends[-1]:
        come = [i for i in come if replay.at[i] < 0]
        chosen = METHODS[method](replay, come)
        for i, rung in chosen:
            replay.judge(i, rung)
        if not chosen:
            break
    return [trained.share([i for when, i in replay.full if when <= end]) for end in ends]
