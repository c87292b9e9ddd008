"""How well a search's own belief ranks networks that were trained in full, at a tenth and at three tenths of that cost.

Each network is trained to the highest rung that the budget reaches for all, at a tenth to the first as long as the
budget lasts; with what is left those go on that nas/searchers/guided/climbing.py chooses. A rung is the held-out loss
that the table records there, and where it has none the mean training loss of the eighth that ends there, which says
less. Belief joins results and structure; networks that were never begun are believed by their structure alone. Its
Kendall tau with the trained losses stands beside that of what costs about as much and needs no model: the first rung
of all at a tenth, the second of all at three tenths, parameters, and FLOPs. The order of the networks is drawn SEEDS
times. Two trainings of one network agree to the table's own tau, which nothing can exceed for long.
"""

from __future__ import annotations

from statistics import median

import numpy as np
from scipy.stats import kendalltau

from tests.benchmarks.replay import DONE, RUNGS, SPACES, TABLES, Replay, Trained
from tests.benchmarks.rows import Row

BUDGETS = {
    "a tenth": (0.1, 0.7),
    "three tenths": (0.3, 0.8),
}  # of the trainings' cost, and the tau that is aimed at
EARLY = {"a tenth": 0, "three tenths": 1}  # the rung of all that costs about as much: 12.5 and 25 per cent
SEEDS = 20


def run() -> list[Row]:
    rows: list[Row] = []
    for name in SPACES:
        if not (TABLES / name).is_dir():
            continue
        trained = Trained.of(name)
        table = trained.table
        for budget, (share, aim) in BUDGETS.items():
            found = [_tau(_believed(trained, share, seed), trained) for seed in range(SEEDS)]
            early = "training loss" if table.rungs is None else "held-out loss"
            trivial: dict[str, float] = {
                f"{early} of all after {DONE[EARLY[budget] + 1]:.1%}": _tau(
                    trained.losses[:, EARLY[budget]], trained
                ),
                **{
                    b: _tau(-table.baselines[b], trained)
                    for b in ("parameters", "flops")
                    if b in table.baselines
                },
            }
            best = max(trivial, key=trivial.__getitem__)
            rows.append(
                Row(
                    f"{name}, {len(trained.genomes)} networks, belief at {budget} of the cost",
                    median(found),
                    min(found),
                    max(found),
                    "tau",
                    f"{aim}",
                    f"{best} {trivial[best]:.2f}",
                )
            )
    return rows


def _tau(losses: np.ndarray, trained: Trained) -> float:
    return float(kendalltau(losses, trained.losses[:, -1]).statistic)


def _believed(trained: Trained, share: float, seed: int) -> np.ndarray:
    """The loss that is expected of each network of the table at the end. [n]."""
    n, replay = len(trained.genomes), Replay(trained)
    most = share * n
    evenly = max([r for r in range(len(RUNGS)) if DONE[r + 1] <= share], default=0)
    for i in np.random.default_rng(seed).permutation(n)[: int(most / DONE[evenly + 1])].tolist():
        replay.judge(i, evenly)
    while True:
        begun = replay.spent
        for i, rung in replay.climbs():
            if replay.spent + replay.price(i, rung) <= most:
                replay.judge(i, rung)
        if replay.spent == begun:
            break
    evidence, model = replay.belief()
    assert model is not None
    believed = model.means(model.features(np.array(trained.genomes)))[:, 0]
    described = model.features(np.array([row.genome for row in evidence.rows]))
    own, _ = model.of_judged(described, np.array([row.losses for row in evidence.rows]), evidence.stds)
    for row, rung, loss in zip(evidence.rows, evidence.rungs, own[:, 0], strict=True):
        believed[trained.index[row.genome]] = row.losses[0] if rung == len(RUNGS) - 1 else loss
    return np.asarray(believed)
