"""Searchers of other projects with their authors' settings, on a table of this project's simulator.

pymoo-nsga2     pymoo's NSGA-II: population 100, simulated binary crossover and polynomial mutation, rounded
optuna-nsga2    Optuna's NSGAIISampler: population 50
optuna-tpe      Optuna's TPESampler, its default for several objectives
linas           LINAS of DyNAS-T (Cummings et al., 2022), reimplemented: rounds of 50, the first random; for each
                objective ridge or support vector regression over one-hot genes, whichever has the lower mean absolute
                percentage error in a grid search with 5 folds; the next round is the last population of NSGA-II
                (population 50, 10,000 evaluations, crossover 0.9 with eta 15, mutation 0.02 with eta 20) over the
                predictors. The grid has a tenth of its values, which costs no accuracy; measured networks are not
                measured again, which can only help it.

Each takes a problem, a seed and a number of evaluations, and returns losses [n, M] in order of evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.simulation.tabulated import Tabulated
from searchspace.spec.genome import Genomes
from studies.pareto import Points

LINAS_ROUND, LINAS_INNER = 50, 10_000
Peer = Callable[[Tabulated, int, int], Points]


def pymoo_nsga2(problem: Tabulated, seed: int, evaluations: int) -> Points:
    from pymoo.algorithms.moo.nsga2 import NSGA2

    return _minimize(NSGA2(**_integers()), problem, problem.losses, seed, evaluations)[1][:evaluations]


def optuna_nsga2(problem: Tabulated, seed: int, evaluations: int) -> Points:
    import optuna

    return _optimize(optuna.samplers.NSGAIISampler(seed=seed), problem, evaluations)


def optuna_tpe(problem: Tabulated, seed: int, evaluations: int) -> Points:
    import optuna

    return _optimize(optuna.samplers.TPESampler(seed=seed), problem, evaluations)


def linas(problem: Tabulated, seed: int, evaluations: int) -> Points:
    from pymoo.algorithms.moo.nsga2 import NSGA2

    rng = np.random.default_rng([seed, LINAS_ROUND])
    encoding = problem.encoding
    genomes = np.unique(encoding.random(LINAS_ROUND, rng), axis=0)
    losses = problem.losses(genomes)
    while len(genomes) < evaluations:
        predictors = [_linas_predictor(_one_hot(problem, genomes), column) for column in losses.T]

        def predict(candidates: Genomes, predictors: list[Any] = predictors) -> Points:
            return np.column_stack([p(_one_hot(problem, candidates)) for p in predictors])

        settings = _integers(crossover=(0.9, 15.0), mutation=(0.02, 20.0))
        inner = NSGA2(pop_size=LINAS_ROUND, **settings)
        found, _ = _minimize(inner, problem, predict, int(rng.integers(1 << 31)), LINAS_INNER, last=True)
        known = set(map(tuple, genomes.tolist()))
        new = np.array([g for g in np.unique(found, axis=0) if tuple(g.tolist()) not in known])
        if not len(new):
            new = encoding.random(1, rng)
        genomes, losses = np.vstack([genomes, new]), np.vstack([losses, problem.losses(new)])
    return losses[:evaluations]


PEERS: dict[str, Peer] = {
    "pymoo-nsga2": pymoo_nsga2,
    "optuna-nsga2 default": optuna_nsga2,
    "optuna-tpe default": optuna_tpe,
    "linas": linas,
}


def _integers(
    crossover: tuple[float, float] | None = None, mutation: tuple[float, float] | None = None
) -> dict[str, Any]:
    """pymoo's operators on integers with (rate, eta) each, by default pymoo's own."""
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    rates = [{} if p is None else {"prob": p[0], "eta": p[1]} for p in (crossover, mutation)]
    return {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(vtype=float, repair=RoundingRepair(), **rates[0]),
        "mutation": PM(vtype=float, repair=RoundingRepair(), **rates[1]),
        "eliminate_duplicates": True,
    }


def _minimize(
    algorithm: Any,
    problem: Tabulated,
    judge: Callable[[Genomes], Points],
    seed: int,
    evaluations: int,
    last: bool = False,
) -> tuple[Genomes, Points]:
    """Canonical genomes [n, V] and losses [n, M] of all evaluations, or of the last population only."""
    from pymoo.core.problem import Problem
    from pymoo.optimize import minimize

    genomes: list[Genomes] = []
    losses: list[Points] = []

    class _Space(Problem):
        def _evaluate(self, x: NDArray[np.float64], out: dict[str, Any], *_: Any, **__: Any) -> None:
            genomes.append(problem.encoding.canonical(x.astype(np.int64)))
            losses.append(judge(genomes[-1]))
            out["F"] = losses[-1]

    upper = problem.encoding.num_values - 1
    space = _Space(n_var=len(upper), n_obj=len(problem.goals), xl=0, xu=upper, vtype=int)
    result = minimize(space, algorithm, ("n_eval", evaluations), seed=seed, verbose=False)
    if last:
        population = problem.encoding.canonical(result.pop.get("X").astype(np.int64))
        return population, result.pop.get("F")
    return np.vstack(genomes), np.vstack(losses)


def _optimize(sampler: Any, problem: Tabulated, evaluations: int) -> Points:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    variables = problem.encoding.variables
    study = optuna.create_study(directions=["minimize"] * len(problem.goals), sampler=sampler)
    losses = []
    for _ in range(evaluations):
        trial = study.ask()
        genes = [trial.suggest_categorical(v.name, list(range(len(v.values)))) for v in variables]
        losses.append(problem.loss(tuple(problem.encoding.canonical(np.array([genes]))[0].tolist())))
        study.tell(trial, losses[-1].tolist())
    return np.array(losses)


def _one_hot(problem: Tabulated, genomes: Genomes) -> NDArray[np.float64]:
    """One column per value of each gene, [n, columns]; genes not in use count as their first value."""
    columns = [genomes[:, [i]] == np.arange(n) for i, n in enumerate(problem.encoding.num_values) if n > 1]
    return np.hstack(columns).astype(np.float64)


def _linas_predictor(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVR

    kept = x.var(axis=0) > 0
    scale = 10 ** (np.floor(np.log10(np.abs(y).max())) - 1)
    grids = [
        (Ridge(), {"alpha": np.arange(0.1, 10.1, 1.0)}),
        (SVR(kernel="rbf", gamma="auto", epsilon=0.0), {"C": np.arange(1.0, 101.0, 10.0)}),
    ]
    searches = [
        GridSearchCV(model, grid, scoring="neg_mean_absolute_percentage_error").fit(x[:, kept], y / scale)
        for model, grid in grids
    ]
    best = max(searches, key=lambda s: s.best_score_).best_estimator_
    return lambda queries: best.predict(queries[:, kept]) * scale
