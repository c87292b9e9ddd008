"""Sampling rules: the networks that a step of supernet training updates.

    sandwich      the largest, the smallest and `num_random` random ones; the largest is the teacher
    granularity   `num_random` networks of uniform FFN width, all widths equally often; the widest is the teacher

A team is a list of networks that learn together, with the teacher first.

Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference", arXiv:2310.07707 (granularities).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.errors import UsageError
from nas.training.sandwich import Sandwich
from nas.training.settings import TrainingSettings
from searchspace.spec.arch import ArchSpec

Team = list[ArchSpec]
Rule = Callable[[int], list[Team]]  # the teams of a step


def rule(sandwich: Sandwich, settings: TrainingSettings) -> Rule:
    """The rule that `settings.sampling` names. Raises UsageError if it does not fit the space."""
    if settings.sampling == "granularity":
        return _granularity(sandwich, settings)
    return lambda step: [sandwich.at(step)]


def granularities(sandwich: Sandwich) -> list[ArchSpec]:
    """For each i, the network whose FFNs all have their i-th width, narrowest first.

    Raises UsageError if the space has other decisions than FFN widths, whose values this rule would never train, or if
    its blocks have different numbers of widths.
    """
    encoding, name = sandwich.encoding, sandwich.encoding.space.name
    chosen = [v for v in encoding.variables if len(v.values) > 1]
    other = [v.name for v in chosen if not v.name.endswith(".d_ff")]
    counts = {len(v.values) for v in chosen}
    if other or len(counts) != 1:
        why = f"it also decides on {other[0]}" if other else "its blocks have different numbers of widths"
        raise UsageError(
            f"training setting sampling granularity needs a space that decides on nothing but d_ff: {name} does not "
            f"fit, {why}; use sandwich"
        )
    widths = [sorted(v.values) for v in encoding.variables]
    found = []
    for level in range(counts.pop()):
        genes = (
            v.values.index(w[level]) if len(w) > 1 else 0
            for v, w in zip(encoding.variables, widths, strict=True)
        )
        found.append(encoding.decode(tuple(genes)))
    return found


def _granularity(sandwich: Sandwich, settings: TrainingSettings) -> Rule:
    every = granularities(sandwich)
    if settings.num_random < 1:
        raise UsageError("training setting num_random must be at least 1 with sampling granularity, got 0")

    def level(number: int) -> int:
        turn, place = divmod(number, len(every))
        rng = np.random.default_rng(np.random.SeedSequence([settings.seed, turn]))
        return int(rng.permutation(len(every))[place])

    def teams(step: int) -> list[Team]:
        first = step * settings.num_random
        levels = sorted((level(first + i) for i in range(settings.num_random)), reverse=True)
        return [[every[i] for i in levels]]

    return teams
