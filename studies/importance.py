"""Which decisions of a space determine an objective, learnt from the trials of a study.

A random forest f predicts the objective from the decisions. The importance of a decision is its total Sobol' index, the
share of the variance in which it is involved alone or jointly, estimated by how much the error of the forest grows when
the decision is shuffled (Breiman, "Random Forests", 2001),

    S_i = (E[(y - f(x with x_i shuffled))^2] - E[(y - f(x))^2]) / (2 Var[y])

on trials that the forest was not fitted to. `explained` = 1 - E[(y - f(x))^2] / Var[y] says how reliable the forest is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies.pareto import Points, losses
from studies.records import Objective, Study, Trial, TrialState

MIN_TRIALS = 20
MAX_TRIALS = 1000
NUM_FOLDS = 4
NUM_TREES = 40


@dataclass(frozen=True)
class Importance:
    """`decisions` maps names to shares of the variance, largest first; decisions without influence are left out."""

    objective: str
    num_trials: int
    explained: float
    decisions: dict[str, float]


def importance(study: Study, trials: Sequence[Trial]) -> list[Importance]:
    """Return one result per objective, from at most MAX_TRIALS complete trials. Raises ValueError below MIN_TRIALS."""
    encoding = Encoding(SpaceSpec.from_json(study.space))
    usable = [
        t
        for t in trials
        if t.state == TrialState.COMPLETE and np.isfinite(losses([t], study.objectives)).all()
    ]
    if len(usable) < MIN_TRIALS:
        raise ValueError(
            f"study {study.name!r} has {len(usable)} complete trials; importance needs at least {MIN_TRIALS}"
        )
    if len(usable) > MAX_TRIALS:
        chosen = np.random.default_rng(study.seed).choice(len(usable), MAX_TRIALS, replace=False)
        usable = [usable[i] for i in np.sort(chosen)]
    genomes = np.array([encoding.encode(ArchSpec.from_json(t.arch)) for t in usable])
    # Decisions not in use get random values: a constant would reveal the decision that disables them.
    drawn = np.random.default_rng(study.seed).integers(0, encoding.num_values, size=genomes.shape)
    genomes = np.where(encoding.in_use(genomes), genomes, drawn)
    varied = np.flatnonzero((genomes != genomes[0]).any(axis=0))
    names = [encoding.variables[i].name for i in varied]
    return [_of_objective(o, genomes[:, varied], losses(usable, [o])[:, 0], names) for o in study.objectives]


def _of_objective(
    objective: Objective, genomes: NDArray[np.int64], values: Points, names: Sequence[str]
) -> Importance:
    """genomes [n, V], values [n]."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(0)
    error = np.zeros(1 + len(names))  # without shuffling, then with each decision shuffled
    for fit, held_out in KFold(NUM_FOLDS, shuffle=True, random_state=0).split(genomes):
        forest = RandomForestRegressor(NUM_TREES, max_features=1 / 2, random_state=0, n_jobs=1)
        forest.fit(genomes[fit], values[fit])
        kept = genomes[held_out]
        shuffled = np.repeat(kept[None], 1 + len(names), axis=0)  # [1 + V, n, V]
        for i in range(len(names)):
            shuffled[1 + i, :, i] = rng.permutation(kept[:, i])
        predicted = forest.predict(shuffled.reshape(-1, len(names))).reshape(len(shuffled), -1)
        error += ((predicted - values[held_out]) ** 2).sum(axis=1)
    total = float(((values - values.mean()) ** 2).sum())
    if total == 0:
        return Importance(objective.name, len(values), 0.0, {})
    parts = (error[1:] - error[0]) / (2 * total)
    order = np.argsort(-parts)
    decisions = {names[i]: float(parts[i]) for i in order if parts[i] > 0}
    return Importance(objective.name, len(values), 1 - float(error[0]) / total, decisions)
