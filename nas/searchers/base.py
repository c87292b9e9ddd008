"""The base of all searchers: ask and tell on genomes, without ever proposing an architecture twice.

The engine calls a searcher in a fixed order, so that neither timing nor the number of workers changes a trajectory:
before `ask(n)` exactly the results of the trials 0 .. n - lag - 1 have been told, each once and in order. A searcher
uses a new random generator for each number, so asking has no side effect except remembering the proposed architecture.
Therefore a study can be rebuilt from its trials without asking again, by `register` and `tell` in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import NasError, UsageError
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, Genome, Genomes
from searchspace.spec.handmade import PLAIN
from studies.fidelity import at
from studies.records import JUDGED, Objective, Trial

TO_THE_END = (
    "to the end"  # the origin of proposals that are evaluated in full because the budget is nearly spent
)
NUM_MUTANTS = 256  # variations of an already proposed architecture that are tried first
NUM_DRAWN = 256  # random architectures of all sizes within the bounds, tried next
NUM_RANDOM = 1 << 14  # uniformly random genomes, tried last, before a space counts as exhausted
BATCH = 32
PATIENCE = BATCH  # random genomes after which every other batch is mutations of recent trials
FAR = 0.1  # share of genes that these mutations change
NUM_LATELY = 256  # number of trials that count as recent


class SpaceExhausted(NasError):
    """No new architecture can be proposed; its message is the reason for which the study ends."""


class NothingInTime(NasError):
    """No proposal could be evaluated in full before the search ends."""


@dataclass(frozen=True)
class Problem:
    """The input of a searcher; `why_invalid` says why an architecture can't be built or violates a bound, else None."""

    encoding: Encoding
    num_objectives: int
    seed: int
    why_invalid: Callable[[ArchSpec], str | None]
    fidelities: tuple[str, ...] = ()  # cheaper measurements than the study's own, cheapest first
    # indices of the objectives that higher fidelities measure more accurately
    climbing: frozenset[int] = frozenset()
    # networks that a user would build by hand; one proposal in `pace` until all are proposed
    plain: tuple[Genome, ...] = ()
    pace: int = 2
    # origins of the genomes in `plain` that are not of the plain family itself
    origins: Mapping[Genome, str] = field(default_factory=dict)
    # proposed alternately with `plain`: published designs by name, then the valid ones of `first`
    designs: Mapping[str, Genome] = field(default_factory=dict)
    first: tuple[Genome, ...] = ()
    # by index of objective, the loss beyond which a network is useless, from the imported model's own loss
    useless: Mapping[int, Callable[[float], float]] = field(default_factory=dict)
    # draws a random genome by size, from 0 (smallest network) to 1 (largest); None makes every decision uniform
    draw: Callable[[np.random.Generator, float], Genome] | None = None

    @cached_property
    def opening(self) -> dict[int, tuple[Genome, str]]:
        """The first proposals of every search: genome and origin by trial number.

        They do not depend on the budget, so a study that gets more trials continues as if it had them from the start.
        """
        plain = [(genome, self.origins.get(genome, PLAIN)) for genome in self.plain]
        first = [(genome, f"design {name}") for name, genome in self.designs.items()]
        first += [(genome, "first") for genome in self.first if genome not in self.designs.values()]
        found: dict[int, tuple[Genome, str]] = {}
        for number in range(self.pace * len(plain) + 2 * len(first)):
            for turn in (plain, first) if number % self.pace == 0 else (first,):
                if turn:
                    found[number] = turn.pop(0)
                    break
        return found


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate; `origin` says how it was made, `parents` from which trials.

    `fidelity` names a cheaper measurement, "" the study's own.
    """

    arch: ArchSpec
    origin: str
    parents: tuple[int, ...] = ()
    fidelity: str = ""


@dataclass(frozen=True)
class Observation:
    """The result of a trial: `losses` [num_objectives] are minimized, nan if unknown.

    `genome` is canonical; `violation` is 0 if all bounds hold; `seconds` is the time of evaluation, None if unknown.
    """

    number: int
    genome: Genome
    losses: NDArray[np.float64]
    violation: float
    state: str
    fidelity: str = ""
    seconds: float | None = None

    @property
    def is_ranked(self) -> bool:
        """Whether it can be compared with other results; a failed trial can't."""
        return self.state in JUDGED


def observation_of(
    trial: Trial, objectives: Sequence[Objective], encoding: Encoding, arch: ArchSpec | None = None
) -> Observation:
    """The observation of a trial, made only from its record, so that a resumed searcher learns the same.

    `arch` is the trial's architecture, if the caller has already decoded it.
    """
    judged = at(trial.fidelity, objectives)
    losses = np.array([o.loss(trial.values.get(o.name, np.nan)) for o in judged])
    losses[~np.isfinite(losses)] = np.nan  # the database stores no infinities
    violation = sum(v / _scale(name, objectives) for name, v in trial.violations.items())
    genome = encoding.encode(arch or ArchSpec.from_json(trial.arch))
    return Observation(trial.number, genome, losses, violation, trial.state, trial.fidelity, trial.seconds)


def _scale(name: str, objectives: Sequence[Objective]) -> float:
    """The divisor of a violation, the size of its bound, so that violations in bytes and milliseconds can be summed."""
    bounds = [b for o in objectives if o.name == name for b in (o.upper, o.lower) if b]
    return abs(bounds[0]) if bounds else 1.0


class Searcher(ABC):
    """Proposes architectures by `ask` and learns from results by `tell`."""

    num_tries = (
        1  # proposals before the last one is mutated; more if they are cheap, since one may violate a bound
    )

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.encoding = problem.encoding
        self._proposed: set[str] = set()
        self._genomes: set[bytes] = set()  # genomes proposed by this object, recognized without decoding
        self._lately: deque[Genome] = deque(maxlen=NUM_LATELY)
        self._num_last = 0  # proposals TO_THE_END, which postpone the remaining opening

    @abstractmethod
    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        """(genome, origin, parents) without side effects; `ask` mutates the genome if it was proposed before."""

    def tell(self, trial: Observation) -> None:
        """Learn from a result. Overriding methods call this one."""
        self._lately.append(trial.genome)

    def finishing_seconds(self) -> float:
        """How many seconds before the time limit full evaluations should begin, with one worker."""
        return 0.0

    def state(self) -> dict[str, Any] | None:
        """A small JSON summary with `num_told`, stored with the study; a resumed searcher must reproduce it."""
        return None

    def random(self, rng: np.random.Generator, share: float | None = None) -> Genome:
        """A random canonical genome; if the problem draws by size, of size `share` in [0, 1], random if None."""
        if self.problem.draw is None:
            return as_genome(self.encoding.random(1, rng)[0])
        return self.problem.draw(rng, rng.random() if share is None else share)

    def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
        """A valid architecture that was never proposed before.

        `seconds_left` is given when the search is nearly over, and is infinite if only its trials are. A searcher with
        cheaper fidelities then proposes what can still be evaluated in full, with the origin TO_THE_END. Such proposals
        depend on the clock, so a resumed study takes them from its record and does not ask for them again.
        Raises SpaceExhausted if no new architecture is found, NothingInTime if none can be evaluated in full in time,
        and UsageError if the space has no valid architecture at all.
        """
        rng = np.random.default_rng([self.problem.seed, number])
        tried: set[bytes] = set()
        reason = None
        opened = self.opened(number)
        opening = [(*opened, ())] if opened else []
        for genome, origin, parents in chain(opening, self.candidates(number, rng)):
            key = np.array(genome, dtype=np.int16).tobytes()
            if key in tried or key in self._genomes:
                continue
            tried.add(key)
            arch = self.encoding.decode(genome)
            # Computing an id costs as much as decoding; random genomes rarely repeat, so invalid ones skip it.
            if origin != "random" and arch.id in self._proposed:
                continue
            reason = self.problem.why_invalid(arch)
            if reason is None and arch.id not in self._proposed:
                self._proposed.add(arch.id)
                self._genomes.add(key)
                return Proposal(arch, origin, parents)
        name = self.encoding.space.name
        if not self._proposed:
            raise UsageError(
                f"space {name}: no valid architecture could be found; the last was refused: {reason}"
            )
        raise SpaceExhausted(f"every valid architecture of {name} that could be found has been evaluated")

    def opened(self, number: int) -> tuple[Genome, str] | None:
        """The genome and origin of the opening for this trial number, None after the opening."""
        return self.problem.opening.get(number - self._num_last)

    def register(self, arch_id: str, arch: Mapping[str, Any], fidelity: str = "", origin: str = "") -> None:
        """Remember an architecture, `arch` as JSON, that was proposed before this object was made."""
        self._proposed.add(arch_id)
        self._num_last += origin == TO_THE_END

    def candidates(
        self, number: int, rng: np.random.Generator
    ) -> Iterator[tuple[Genome, str, tuple[int, ...]]]:
        """(genome, origin, parents) in the order in which `ask` tries them.

        First the searcher's proposals, then mutations of the last one at a growing rate, then random genomes, first
        by size. After PATIENCE random ones every other batch is mutations of recently told architectures instead.
        """
        for _ in range(self.num_tries):
            genome, origin, parents = self.propose(number, rng)
            yield genome, origin, parents
        known = np.array([genome] * BATCH)
        for step in range(0, NUM_MUTANTS if origin != "random" else 0, BATCH):
            rate = (1 + 8 * step / NUM_MUTANTS) / len(self.encoding)
            for mutant in self.mutate(known, rate, rng):
                yield as_genome(mutant), f"{origin}, varied", parents
        for _ in range(NUM_DRAWN if self.problem.draw else 0):
            yield self.random(rng), "random", ()
        for step in range(0, NUM_RANDOM, BATCH):
            if step >= PATIENCE and self._lately and step // BATCH % 2:
                start = np.array(self._lately)[rng.integers(0, len(self._lately), size=BATCH)]
                for mutant in self.mutate(start, FAR, rng):
                    yield as_genome(mutant), "varied", ()
            else:
                for drawn in self.encoding.random(BATCH, rng):
                    yield as_genome(drawn), "random", ()

    def mutate(self, genomes: Genomes, rate: float | None, rng: np.random.Generator) -> Genomes:
        """Canonical mutations [n, V] of canonical genomes [n, V].

        Each gene is redrawn with probability `rate` (None: 1 / number of the genome's decisions in use), and at least
        one in use always; decisions that come into use are random.
        """
        redrawn = rng.integers(0, self.encoding.num_values, size=genomes.shape)
        used = self.encoding.in_use(genomes)
        limit = 1 / np.maximum(1, used.sum(1, keepdims=True)) if rate is None else rate
        certain = np.argmax(
            np.where(used & (self.encoding.num_values > 1), rng.random(genomes.shape), -1.0), axis=1
        )
        change = rng.random(genomes.shape) < limit
        change[np.arange(len(genomes)), certain] = True
        return self.encoding.canonical(np.where(change | ~used, redrawn, genomes))

    def cross(
        self, a: NDArray[np.int64], b: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """The canonical child [V] of canonical parents a, b [V].

        Each gene comes from a random parent, or from the only one that uses it; it is random if neither does.
        """
        in_a, in_b = self.encoding.in_use(np.stack([a, b]))  # each [V]
        take_a = np.where(in_a == in_b, rng.random(len(a)) < 0.5, in_a)
        child = np.where(take_a, a, b)
        child = np.where(in_a | in_b, child, rng.integers(0, self.encoding.num_values))
        return np.asarray(self.encoding.canonical(child[None])[0])

    def child(self, genes: NDArray[np.int64], rng: np.random.Generator) -> Genome:
        """A mutation of canonical genes [V] at the default rate, see `mutate`."""
        return as_genome(self.mutate(genes[None], None, rng)[0])


def as_genome(genes: NDArray[np.int64]) -> Genome:
    """The genes [V] as a tuple."""
    return tuple(genes.tolist())
