"""How well a search's predictions rank fully trained networks, at a tenth and at three tenths of the training cost.

All networks are trained to the highest rung that the budget allows for all, or at a tenth to the first rung while the
budget lasts; the rest of the budget continues those that nas/searchers/guided/climbing.py chooses. The loss at a rung
is the held-out loss in the table or, where that is missing, the less informative mean training loss of the eighth that
ends there. The prediction combines results and structure; for networks without results it uses structure alone. Its
Kendall tau with the trained losses is compared with those of baselines without a model: the first rung of all networks
at a tenth, the second at three tenths, parameters, and FLOPs. The order of networks is drawn SEEDS times. Two trainings
of the same networks agree to the table's own tau, a ceiling for any judgement.
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
}  # share of the training cost -> target tau
EARLY = {"a tenth": 0, "three tenths": 1}  # rung of all networks at similar cost: 12.5 and 25 per cent
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
    """Predicted final loss [n] in nats of each network of the table."""
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
