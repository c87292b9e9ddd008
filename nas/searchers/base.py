"""What every searcher shares: ask and tell on genomes, and never proposing the same architecture twice.

The engine calls in one fixed order, so that neither timing nor the number of workers can change a trajectory:
before `ask(n)` the results of the trials 0 .. n - lag - 1 have been told, each once, in number order, and no
others. A searcher draws from a generator made anew for each number, so asking has no effect but to remember
the architecture as proposed. That is why a study is rebuilt from its trials without asking again: `register`
and `tell` in the same order.
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

TO_THE_END = "to the end"  # the origin of what is judged in full because the time is nearly over
NUM_MUTANTS = 256  # variations of a known architecture that are tried first
NUM_DRAWN = 256  # then random ones of every size within the bounds,
NUM_RANDOM = 1 << 14  # then ones with every decision by chance, before a space counts as exhausted
BATCH = 32
PATIENCE = BATCH  # random ones refused before half of them are mutations of valid architectures,
FAR = 0.1  # with this share of their genes drawn anew,
NUM_LATELY = 256  # made from those told last


class SpaceExhausted(NasError):
    """Nothing new can be proposed: the study ends, with this sentence as the reason."""


class NothingInTime(NasError):
    """Nothing that could be proposed now would be judged in full before the search ends."""


@dataclass(frozen=True)
class Problem:
    """What a searcher may know; `why_invalid` says why an architecture can't be built or breaks a bound."""

    encoding: Encoding
    num_objectives: int
    seed: int
    why_invalid: Callable[[ArchSpec], str | None]
    fidelities: tuple[str, ...] = ()  # cheaper judgements than the study's own, cheapest first
    # the objectives that each judgement knows better than the one before
    climbing: frozenset[int] = frozenset()
    # what a user would have built by hand: one proposal in `pace` until all are there
    plain: tuple[Genome, ...] = ()
    pace: int = 2
    # what those of them are that are not of the plain family itself
    origins: Mapping[Genome, str] = field(default_factory=dict)
    # proposed in between: published designs by name, then `first` where they are valid, before what the searcher finds
    designs: Mapping[str, Genome] = field(default_factory=dict)
    first: tuple[Genome, ...] = ()
    # the loss beyond which a network is of no use, by index of objective, from that of the imported model itself
    useless: Mapping[int, Callable[[float], float]] = field(default_factory=dict)
    # a random genome by its size, 0 the smallest network and 1 the largest; without it every decision is uniform
    draw: Callable[[np.random.Generator, float], Genome] | None = None

    @cached_property
    def opening(self) -> dict[int, tuple[Genome, str]]:
        """What every search begins with: a genome and its origin by the number of its trial.

        It depends on no budget, so that a study goes on with more trials as if it had had them from the start.
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
    """An architecture to evaluate; `origin` says how it came about, `parents` from which trials.

    `fidelity` names the judgement, "" the study's own.
    """

    arch: ArchSpec
    origin: str
    parents: tuple[int, ...] = ()
    fidelity: str = ""


@dataclass(frozen=True)
class Observation:
    """The result of a trial: `losses` [num_objectives] are to be minimized, nan where unknown.

    `genome` is canonical; `violation` is 0 where every bound holds; `seconds` is what judging took, None where unknown.
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
        """Whether it can be compared with others; a failed trial says nothing on quality."""
        return self.state in JUDGED


def observation_of(
    trial: Trial, objectives: Sequence[Objective], encoding: Encoding, arch: ArchSpec | None = None
) -> Observation:
    """The result as a searcher is told it, from the record alone, so that a resumed searcher learns the same.

    `arch` is the trial's architecture where the caller has it decoded already.
    """
    judged = at(trial.fidelity, objectives)
    losses = np.array([o.loss(trial.values.get(o.name, np.nan)) for o in judged])
    losses[~np.isfinite(losses)] = np.nan  # the database keeps no infinities
    violation = sum(v / _scale(name, objectives) for name, v in trial.violations.items())
    genome = encoding.encode(arch or ArchSpec.from_json(trial.arch))
    return Observation(trial.number, genome, losses, violation, trial.state, trial.fidelity, trial.seconds)


def _scale(name: str, objectives: Sequence[Objective]) -> float:
    """What a violation is divided by, so that bytes and milliseconds can be summed: the size of its bound."""
    bounds = [b for o in objectives if o.name == name for b in (o.upper, o.lower) if b]
    return abs(bounds[0]) if bounds else 1.0


class Searcher(ABC):
    num_tries = (
        1  # proposals before the last one is varied; more where they are cheap, as one may break a bound
    )

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.encoding = problem.encoding
        self._proposed: set[str] = set()
        self._genomes: set[bytes] = set()  # of those proposed here: known without decoding
        self._lately: deque[Genome] = deque(maxlen=NUM_LATELY)
        self._num_last = (
            0  # proposals that came TO_THE_END; what an early end took from the opening comes later
        )

    @abstractmethod
    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        """A genome, its origin and its parents, without side effects; `ask` varies one that is known."""

    def tell(self, trial: Observation) -> None:
        """Learn a result. An overriding method calls this one."""
        self._lately.append(trial.genome)

    def finishing_seconds(self) -> float:
        """How long before the end of its time a search should come to its end, if it judged one network at a time."""
        return 0.0

    def state(self) -> dict[str, Any] | None:
        """A small summary in JSON with `num_told`, stored with the study; a resume has to arrive at it."""
        return None

    def random(self, rng: np.random.Generator, share: float | None = None) -> Genome:
        """A random canonical genome; where the problem can draw by size, of that `share`, itself random where None."""
        if self.problem.draw is None:
            return as_genome(self.encoding.random(1, rng)[0])
        return self.problem.draw(rng, rng.random() if share is None else share)

    def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
        """A valid architecture that was never proposed before; raises SpaceExhausted where none is found.

        `seconds_left` is given where the search is nearly over, infinite where its trials are: a searcher that has
        cheaper judgements then proposes what can still be judged in full, with the origin TO_THE_END, or raises
        NothingInTime. Such a proposal depends on the clock, so a study is rebuilt from its record and it is never
        asked for again.
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
            # The id costs as much as decoding: of random genomes, which seldom repeat, the invalid need none.
            if origin != "random" and arch.id in self._proposed:
                continue
            reason = self.problem.why_invalid(arch)
            if reason is None and arch.id not in self._proposed:
                self._proposed.add(arch.id)
                self._genomes.add(key)
                return Proposal(arch, origin, parents)
        name = self.encoding.space.name
        if not self._proposed:
            raise UsageError(f"space {name} holds no valid architecture that could be found: {reason}")
        raise SpaceExhausted(f"every valid architecture of {name} that could be found has been evaluated")

    def opened(self, number: int) -> tuple[Genome, str] | None:
        """What the search begins with under this number: a genome and its origin."""
        return self.problem.opening.get(number - self._num_last)

    def register(self, arch_id: str, arch: Mapping[str, Any], fidelity: str = "", origin: str = "") -> None:
        """Remember an architecture, `arch` as JSON, that was proposed before this searcher was made."""
        self._proposed.add(arch_id)
        self._num_last += origin == TO_THE_END

    def candidates(
        self, number: int, rng: np.random.Generator
    ) -> Iterator[tuple[Genome, str, tuple[int, ...]]]:
        """Genomes in the order in which they are to be tried, each with its origin and its parents.

        What the searcher proposes, then mutations of it at a growing rate, then random ones, of every size first. Where
        many of these are refused, every other batch is mutations of valid architectures told lately instead.
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
        """Each gene drawn anew at `rate`, at least one in use; decisions that thereby appear are random.

        genomes: canonical, [n, V]. Where `rate` is None, it is 1 / the number of a genome's decisions. Returns [n, V].
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
        """Each gene from either parent, or from the only one that uses it; random where neither does.

        a, b: canonical, [V]. Returns [V].
        """
        in_a, in_b = self.encoding.in_use(np.stack([a, b]))  # each [V]
        take_a = np.where(in_a == in_b, rng.random(len(a)) < 0.5, in_a)
        child = np.where(take_a, a, b)
        child = np.where(in_a | in_b, child, rng.integers(0, self.encoding.num_values))
        return np.asarray(self.encoding.canonical(child[None])[0])

    def child(self, genes: NDArray[np.int64], rng: np.random.Generator) -> Genome:
        """A mutation of canonical genes [V]: one decision in use drawn anew, and each with chance 1 / their number."""
        return as_genome(self.mutate(genes[None], None, rng)[0])


def as_genome(genes: NDArray[np.int64]) -> Genome:
    return tuple(genes.tolist())
