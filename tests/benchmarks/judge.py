"""How well a search's own belief ranks networks that were trained in full, at a tenth and at three tenths of that cost.

The networks of a table are judged as a search judges them: each for an eighth of its training as long as the budget
lasts, then those go on that nas/searchers/guided/climbing.py chooses. What the table records stands for a rung: the
mean training loss of its last eighth. Belief joins results and structure; networks that were never begun are
believed by their structure alone. Its Kendall tau with the trained losses stands beside that of what costs as much
and needs no model: the training loss of all after an eighth and after a quarter, parameters, and FLOPs. The order
of the networks is drawn SEEDS times. Two trainings of one network agree to the table's own tau, which nothing can
exceed for long.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
from scipy.stats import kendalltau

from nas.searchers.base import Observation
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
EARLY = {"a tenth": 0, "three tenths": 1}  # eighths of the training of all that cost about as much
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
        assert table.curves is not None
        for budget, (share, aim) in BUDGETS.items():
            found = [_tau(_believed(table, encoding, genomes, share, seed), table) for seed in range(SEEDS)]
            trivial: dict[str, float] = {
                "training loss": _tau(table.curves[:, EARLY[budget]], table),
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


def _believed(table: Table, encoding: Encoding, genomes: list[Genome], share: float, seed: int) -> np.ndarray:
    """The loss that is expected of each network of the table at the end. [n]."""
    assert table.curves is not None
    n, order = len(genomes), np.random.default_rng(seed).permutation(len(genomes))
    rungs = np.full((n, len(RUNGS)), np.nan)
    for r, done in enumerate(DONE[1:-1]):
        rungs[:, r] = table.curves[:, round(done * table.curves.shape[1]) - 1]
    rungs[:, -1] = -table.quality
    cost = np.log(table.baselines["flops"])
    index = {genome: i for i, genome in enumerate(genomes)}
    told: list[Observation] = []
    left = share * n

    def judge(i: int, rung: int) -> None:
        losses = np.array([rungs[i, rung], cost[i]])
        told.append(Observation(len(told), genomes[i], losses, 0.0, "complete", RUNGS[rung]))

    for i in order[: int(left / DONE[1])]:
        judge(int(i), 0)
        left -= DONE[1]
    modeller = Modeller(Features(encoding))
    while True:
        evidence = gather(told, RUNGS, frozenset({0}))
        model = modeller.fit(evidence.rows, evidence.stds)
        assert model is not None
        price = {RUNGS[r]: DONE[r + 1] - DONE[r] for r in range(len(RUNGS))}
        chosen = [
            (index[row.genome], RUNGS.index(rung))
            for row, rung in climb(evidence, model, [], RUNGS, (), AT_ONCE)
            if price[rung] <= left
        ]
        for i, rung in chosen:
            if price[RUNGS[rung]] <= left:
                judge(i, rung)
                left -= price[RUNGS[rung]]
        if not chosen:
            break
    believed = model.means(model.features(np.array(genomes)))[:, 0]
    described = model.features(np.array([row.genome for row in evidence.rows]))
    own, _ = model.of_judged(described, np.array([row.losses for row in evidence.rows]), evidence.stds)
    for row, rung, loss in zip(evidence.rows, evidence.rungs, own[:, 0], strict=True):
        believed[index[row.genome]] = row.losses[0] if rung == len(RUNGS) - 1 else loss
    return np.asarray(believed)
