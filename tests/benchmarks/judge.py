"""How well a search's own belief ranks networks that were trained in full, at a tenth and at three tenths of that cost.

Each network is trained to the highest rung that the budget reaches for all, at a tenth to the first as long as the
budget lasts; with what is left those go on that nas/searchers/guided/climbing.py chooses. A rung is the held-out loss that the table
records there, and where it has none the mean training loss of the eighth that ends there, which says less. Belief joins
results and structure; networks that were never begun are believed by their structure alone. Its Kendall tau with the
trained losses stands beside that of what costs about as much and needs no model: the first rung of all at a tenth, the
second of all at three tenths, parameters, and FLOPs. The order of the networks is drawn SEEDS times. Two trainings of
one network agree to the table's own tau, which nothing can exceed for long.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
from scipy.stats import kendalltau

from nas.searchers.base import Told
from nas.searchers.guided.climbing import climb
from nas.searchers.guided.evidence import gather
from nas.searchers.guided.features import Features
from nas.searchers.guided.model import Modeller
from nas.truth.readers import Table, read
from searchspace.load import load_space
from searchspace.spec.genome import Encoding, Genome
from studies.fidelity import SHARES
from tests.benchmarks.rows import Row

TABLES = Path("studies/results/truth")
SPACES = ("tiny-lm", "tiny-vision", "small-lm")
BUDGETS = {
    "a tenth": (0.1, 0.7),
    "three tenths": (0.3, 0.8),
}  # of the trainings' cost, and the tau that is aimed at
EARLY = {"a tenth": 0, "three tenths": 1}  # the rung of all that costs about as much: 12.5 and 25 per cent
RUNGS = (*SHARES, "")
DONE = [0.0, *SHARES.values(), 1.0]
AT_ONCE = 5
SEEDS = 20


def run() -> list[Row]:
    rows: list[Row] = []
    for name in SPACES:
        if not (TABLES / name).is_dir():
            continue
        table, encoding = read(TABLES / name), Encoding(load_space(name))
        genomes = [encoding.encode(arch) for arch in table.archs]
        rungs = _rungs(table)
        for budget, (share, aim) in BUDGETS.items():
            found = [
                _tau(_believed(table, rungs, encoding, genomes, share, seed), table) for seed in range(SEEDS)
            ]
            early = "training loss" if table.rungs is None else "held-out loss"
            trivial: dict[str, float] = {
                f"{early} of all after {DONE[EARLY[budget] + 1]:.1%}": _tau(rungs[:, EARLY[budget]], table),
                **{
                    b: _tau(-table.baselines[b], table)
                    for b in ("parameters", "flops")
                    if b in table.baselines
                },
            }
            best = max(trivial, key=trivial.__getitem__)
            rows.append(
                Row(
                    f"{name}, {len(genomes)} networks, belief at {budget} of the cost",
                    median(found),
                    min(found),
                    max(found),
                    "tau",
                    f"{aim}",
                    f"{best} {trivial[best]:.2f}",
                )
            )
    return rows


def _tau(losses: np.ndarray, table: Table) -> float:
    return float(kendalltau(-losses, table.quality).statistic)


def _rungs(table: Table) -> np.ndarray:
    """The losses of the table's networks at each of RUNGS. [n, len(RUNGS)]."""
    rungs = table.rungs
    if rungs is None:
        assert table.curves is not None
        rungs = table.curves[:, [round(done * table.curves.shape[1]) - 1 for done in DONE[1:-1]]]
    return np.column_stack([rungs, -table.quality])


def _believed(
    table: Table, rungs: np.ndarray, encoding: Encoding, genomes: list[Genome], share: float, seed: int
) -> np.ndarray:
    """The loss that is expected of each network of the table at the end. [n]."""
    n, order = len(genomes), np.random.default_rng(seed).permutation(len(genomes))
    cost = np.log(table.baselines["flops"])
    index = {genome: i for i, genome in enumerate(genomes)}
    told: list[Told] = []
    left = share * n

    at = np.full(n, -1)  # the rung that each network has reached

    def price(i: int, rung: int) -> float:
        return DONE[rung + 1] - DONE[at[i] + 1]

    def judge(i: int, rung: int) -> None:
        nonlocal left
        left -= price(i, rung)
        at[i] = rung
        losses = np.array([rungs[i, rung], cost[i]])
        told.append(Told(len(told), genomes[i], losses, 0.0, "complete", RUNGS[rung]))

    evenly = max([r for r in range(len(RUNGS)) if DONE[r + 1] <= share], default=0)
    for i in order[: int(left / DONE[evenly + 1])]:
        judge(int(i), evenly)
    modeller = Modeller(Features(encoding))
    while True:
        evidence = gather(told, RUNGS, frozenset({0}))
        model = modeller.fit(evidence.rows, evidence.stds)
        assert model is not None
        chosen = [
            (index[row.genome], RUNGS.index(rung))
            for row, rung in climb(evidence, model, [], RUNGS, (), AT_ONCE)
        ]
        affordable = [(i, rung) for i, rung in chosen if price(i, rung) <= left]
        for i, rung in affordable:
            if price(i, rung) <= left:
                judge(i, rung)
        if not affordable:
            break
    believed = model.means(model.features(np.array(genomes)))[:, 0]
    described = model.features(np.array([row.genome for row in evidence.rows]))
    own, _ = model.of_judged(described, np.array([row.losses for row in evidence.rows]), evidence.stds)
    for row, rung, loss in zip(evidence.rows, evidence.rungs, own[:, 0], strict=True):
        believed[index[row.genome]] = row.losses[0] if rung == len(RUNGS) - 1 else loss
    return np.asarray(believed)
