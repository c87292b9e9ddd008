"""The database's rows as frozen dataclasses: studies, trials, outcomes and artifacts.

States of a trial: waiting -> running -> complete | infeasible | pruned | failed. Only `complete` trials compete for the
front; `infeasible` trials store how far they missed each bound, `failed` trials the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from predictors.runtimes import EAGER
from searchspace.spec.measurement import Measurement
from searchspace.spec.reading import bounds, unknown, word
from searchspace.spec.workload import Workload
from studies.settings import Settings

DIRECTIONS = ("minimize", "maximize")
SOURCES = ("measured", "predicted", "proxy", "cost", "inherited", "trained", "user")


class TrialState(StrEnum):
    """State of a trial, stored as text like the other enumerations."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    INFEASIBLE = "infeasible"
    PRUNED = "pruned"
    FAILED = "failed"


class StudyState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


class Control(StrEnum):
    """What workers are to do with a study; NONE where its driver was started by hand."""

    NONE = ""
    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


TRIAL_STATES: tuple[str, ...] = tuple(TrialState)
JUDGED = (TrialState.COMPLETE, TrialState.INFEASIBLE)  # have a value for every objective
FINISHED = (*JUDGED, TrialState.PRUNED, TrialState.FAILED)
STUDY_STATES: tuple[str, ...] = tuple(StudyState)
CONTROLS: tuple[str, ...] = tuple(Control)


@dataclass(frozen=True)
class Objective:
    """One quantity to optimize, with its bounds.

    `name` is the judge's name for it, `direction` is minimize or maximize, `unit` is that of values and bounds, "" for
    a pure number. `source`, one of SOURCES, is how the search obtains it. `workload`, `device` and `runtime` say what
    is measured, where and by what ("" where the quantity does not depend on it). Values outside `lower` and `upper` are
    infeasible; None means no bound. `reference` is the worst value that hypervolumes count.
    """

    name: str
    direction: str = "minimize"
    unit: str = ""
    source: str = "cost"
    workload: Workload | None = None
    device: str = ""
    runtime: str = ""
    lower: float | None = None
    upper: float | None = None
    reference: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown direction or for impossible bounds."""
        word("the name of an objective", self.name)
        for name, known in (("direction", DIRECTIONS), ("source", SOURCES)):
            if getattr(self, name) not in known:
                raise ValueError(f"objective {self.name}: {unknown(str(getattr(self, name)), known, name)}")
        bounds(self.name, self.lower, self.upper)

    def violation(self, value: float) -> float:
        """Return how far `value` is outside the bounds, 0.0 inside."""
        below = self.lower - value if self.lower is not None else 0.0
        above = value - self.upper if self.upper is not None else 0.0
        return max(0.0, below, above)

    def loss(self, value: float) -> float:
        """Return the value with its sign turned so that lower is better."""
        return value if self.direction == "minimize" else -value

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "workload": self.workload.to_json() if self.workload else None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Objective:
        workload = data.get("workload")
        return cls(**{**data, "workload": Workload.from_json(workload) if workload else None})


@dataclass(frozen=True)
class Study:
    """A study's request. Everything that determines its trajectory is here: space, objectives, searcher, seed, lag.

    `space` is the resolved space as JSON, so a study resumes on its own space even if the file has changed since.
    `settings` holds all other options; `supernet` and `profile` are the content ids of the artifacts used for judging.
    `control` is what workers are to do with the study, "" where its driver was started by hand. `progress` is {what,
    text, done, total, seconds, eta_seconds} while it is driven; `problem` is why it failed. `notes` and `tags` are
    written by people and have no effect.
    """

    name: str
    space: dict[str, Any]
    objectives: tuple[Objective, ...]
    searcher: str
    seed: int
    lag: int
    max_trials: int
    max_seconds: float | None = None
    quality: str = "supernet"
    settings: Settings = field(default_factory=Settings)
    supernet: str = ""
    profile: str = ""
    code_version: str = ""
    state: StudyState | str = StudyState.RUNNING
    created_at: str = ""
    control: Control | str = Control.NONE
    priority: int = 0
    problem: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    tags: tuple[str, ...] = ()
    id: int | None = None

    @property
    def runtime(self) -> str:
        """The runtime of the study's latencies; eager for a study from before runtimes could be chosen."""
        return next((o.runtime for o in self.objectives if o.runtime), EAGER)

    def concerns(self, measurement: Measurement) -> bool:
        """Return whether a measurement of one of its networks applies to this study, which needs the same runtime."""
        return measurement.quantity != "latency" or measurement.implementation == self.runtime


@dataclass(frozen=True)
class StudySummary:
    """One line of the list of studies. `space` is the space's name; `counts` has an entry for every trial state."""

    name: str
    state: str
    searcher: str
    space: str
    counts: dict[str, int]
    created_at: str
    control: str
    priority: int
    max_trials: int
    progress: dict[str, Any]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One architecture and its result. `arch` is `ArchSpec.to_json()`, `arch_id` its content id."""

    number: int
    arch: dict[str, Any]
    arch_id: str
    state: TrialState | str = TrialState.WAITING
    values: dict[str, float] = field(default_factory=dict)
    violations: dict[str, float] = field(default_factory=dict)
    fidelity: str = ""
    origin: str = ""
    parents: tuple[int, ...] = ()
    worker: str = ""
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    seconds: float | None = None

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class Outcome:
    """The result of evaluating a trial: final state, values by objective name, and the reason if it failed."""

    number: int
    state: str
    values: dict[str, float] = field(default_factory=dict)
    violations: dict[str, float] = field(default_factory=dict)
    error: str = ""
    worker: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Artifact:
    """A file or folder outside the database, named by the hash of its inputs."""

    kind: str
    key: str
    path: str
    size_bytes: int
    created_at: str
