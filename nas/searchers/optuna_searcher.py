"""Tree-structured Parzen estimator over all genes jointly, from Optuna.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; several objectives as in Ozaki et al.,
"Multiobjective Tree-Structured Parzen Estimator", 2022. Optuna's study lives in memory and holds what was
told: the database of this project is the record. A proposal costs about 20 ms after 100 trials and 75 ms
after 1,000.
"""

from __future__ import annotations

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from nas.searchers.base import Problem, Searcher, Told, as_genome
from searchspace.spec.genome import Genome, Variable

NUM_RANDOM_FIRST = 20


class TPESearcher(Searcher):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        variables = self.encoding.variables
        self._indices = {v.name: i for i, v in enumerate(variables) if len(v.values) > 1}
        self._distributions = {name: _distribution(variables[i]) for name, i in self._indices.items()}
        self._study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(), directions=["minimize"] * problem.num_objectives
        )

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        self._study.sampler = optuna.samplers.TPESampler(
            multivariate=True,
            constant_liar=False,
            n_startup_trials=NUM_RANDOM_FIRST,
            seed=int(rng.integers(1 << 32)),
        )
        trial = self._study.ask(self._distributions)
        # What is learnt comes by `tell`, with the architecture that was evaluated in the end.
        self._study.tell(trial, state=TrialState.FAIL)
        genes = np.zeros((1, len(self.encoding)), dtype=np.int64)
        for name, i in self._indices.items():
            genes[0, i] = trial.params[name]
        return as_genome(self.encoding.canonical(genes)[0]), "tpe", ()

    def tell(self, trial: Told) -> None:
        if not trial.is_ranked:
            return
        self._study.add_trial(
            create_trial(
                params={name: trial.genome[i] for name, i in self._indices.items()},
                distributions=self._distributions,
                # outside the bounds TPE ranks by violation alone, so a missing loss may be anything
                values=np.nan_to_num(trial.losses).tolist(),
                constraints={"violation": trial.violation},
                state=TrialState.COMPLETE,
            )
        )


def _distribution(variable: Variable) -> BaseDistribution:
    """Indices of numbers are ordered, those of names are not."""
    count = len(variable.values)
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in variable.values):
        return IntDistribution(0, count - 1)
    return CategoricalDistribution(tuple(range(count)))
