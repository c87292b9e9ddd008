"""The service's cache of a study: every finished trial is read once, since finished trials never change.

A client's position in a study is the text `n:bits`: the client has all trials below n, and those of n, n+1, ... whose
bit is set. It does not depend on the server's state, so a restarted server understands it.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nas.presentation.study import columns, full, growth, to_json
from studies.control import Driver, drivers
from studies.errors import StoreUnavailable, UnknownStudy
from studies.latencies import Latencies, latencies
from studies.pareto import front
from studies.records import TRIAL_STATES, Study, Trial, TrialState
from studies.store import Store
from studies.worth import handed_over

FRESH_SECONDS = 0.2
MAX_SHOWN = 4096  # trials of a study whose JSON is cached
MAX_OPEN = 1 << 16  # maximum range of trials in the bits of a position


@dataclass
class Position:
    """The finished trials that a client has: all below `start`, and those in `beyond`."""

    start: int = 0
    beyond: set[int] = field(default_factory=set)

    def add(self, numbers: Iterable[int]) -> None:
        self.beyond.update(numbers)
        while self.start in self.beyond:
            self.beyond.discard(self.start)
            self.start += 1

    def lacks(self, number: int) -> bool:
        return number >= self.start and number not in self.beyond

    def __str__(self) -> str:
        return f"{self.start}:{sum(1 << (n - self.start) for n in self.beyond):x}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position in `text`. Raises ValueError if it is malformed."""
        found = re.fullmatch(r"(\d{1,12}):([0-9a-f]{1,20000})", text, re.ASCII)
        if found is None:
            raise ValueError(f"{text[:40]!r} is no position in a study; use the id of an event")
        start, bits = int(found[1]), int(found[2], 16)
        return cls(start, {start + i for i in range(min(bits.bit_length(), MAX_OPEN)) if bits >> i & 1})


class View:
    """One study as of its last refresh."""

    def __init__(self, store: Store, study: Study) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._volumes_lock = (
            threading.Lock()
        )  # separate, so that nothing else waits for this slow computation
        self._read_at = -math.inf
        self._columns: tuple[tuple[int, Latencies], bytes] = ((-1, {}), b"")
        self._volumes: tuple[int, list[tuple[int, float]]] = (-1, [])
        self.study = study
        self.driver: Driver | None = None
        self.is_waiting = False  # whether the database is unavailable and this is the state last read
        self.position = Position()
        self.finished: dict[int, Trial] = {}
        self.unfinished: list[Trial] = []
        self.front: list[Trial] = []
        self.latencies: Latencies = {}
        self.knee: int | None = None  # trial number of the front's knee
        self._shown: dict[int, bytes] = {}
        self._results: dict[int, bytes] = {}
        self._counts: Counter[str] = Counter()

    def forget_age(self) -> None:
        """Make the next refresh read the database."""
        self._read_at = -math.inf

    def refresh(self) -> View:
        """Read trials that have finished since the last refresh, at most every FRESH_SECONDS; returns self.

        Raises StoreUnavailable if nothing was read yet and the database is unavailable, and UnknownStudy if the study
        was deleted.
        """
        if not self.is_fresh:
            with self._lock:
                if not self.is_fresh:
                    try:
                        self._read()
                        self.is_waiting = False
                    except StoreUnavailable:
                        if self._read_at == -math.inf:  # nothing was read yet, or a read was requested
                            raise
                        self.is_waiting = True
                    self._read_at = time.monotonic()
        return self

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < FRESH_SECONDS

    def _read(self) -> None:
        study = self._store.study(self.study.name)
        if (study.id, study.created_at) != (self.study.id, self.study.created_at):
            raise UnknownStudy(f"study {study.name!r} was deleted, and another one has its name")
        driver = drivers(self._store, study.name).get(study.name)
        found = self._store.results(study, after=self.position.start - 1)
        new = [t for t in found if t.is_finished and self.position.lacks(t.number)]
        is_new = any(t.state == TrialState.COMPLETE for t in new)
        best = front([*self.front, *new], study.objectives) if is_new else self.front
        took = latencies(self._store, study, best)  # everything is read before this view changes
        self.unfinished = [t for t in found if not t.is_finished]
        self.finished |= {t.number: t for t in new}
        self._counts.update(t.state for t in new)
        self.position.add(t.number for t in new)
        self.study, self.driver = study, driver
        if is_new or took != self.latencies:
            self.front, self.latencies = best, took
            knee = handed_over(study, self.finished.values(), best, took)
            self.knee = None if knee is None else knee.number

    def since(self, position: Position) -> list[Trial]:
        """Finished trials that a client at `position` lacks, ordered by number."""
        last = max(self.finished, default=-1)
        numbers = range(position.start, max(last, self.position.start - 1) + 1)
        return [self.finished[n] for n in numbers if n in self.finished and position.lacks(n)]

    def results(self, numbers: Iterable[int]) -> bytes:
        """Finished trials as a JSON list of {number, state, values}; each trial is serialized once for all streams."""
        rows = []
        for n in numbers:
            if n not in self._results:
                trial = self.finished[n]
                self._results[n] = to_json({"number": n, "state": trial.state, "values": trial.values})
            rows.append(self._results[n])
        return listed(rows)

    def counts(self) -> dict[str, int]:
        counts = self._counts + Counter(t.state for t in self.unfinished)
        return {state: counts[state] for state in TRIAL_STATES}

    def shown(self, numbers: Sequence[int]) -> list[bytes]:
        """The trials with these numbers, in order, each as JSON with its architecture; unknown ones are omitted."""
        found = {n: row for n in numbers if (row := self._shown.get(n)) is not None}
        missing = [n for n in numbers if n not in found]
        read = self._store.trials(self.study, numbers=missing) if missing else []
        found |= {t.number: to_json(full(t)) for t in read}
        with self._lock:
            self._shown |= {t.number: found[t.number] for t in read if t.is_finished}
            for n in list(self._shown)[: max(0, len(self._shown) - MAX_SHOWN)]:  # the oldest
                del self._shown[n]
        return [found[n] for n in numbers if n in found]

    def columns(self) -> bytes:
        """All finished trials as one JSON document of columns, with the front and the resulting position."""
        with self._lock:
            made_of = (len(self.finished), self.latencies)
            if self._columns[0] != made_of:
                trials = [self.finished[n] for n in sorted(self.finished)]
                document = columns(self.study, trials, self.front, self.latencies)
                self._columns = (made_of, to_json(document | {"position": str(self.position)}))
            return self._columns[1]

    def hypervolume(self) -> list[tuple[int, float]]:
        """(number of trials, hypervolume as a share of the current one) at about MAX_POINTS trials."""
        with self._volumes_lock:
            if self._volumes[0] != len(self.finished):
                with self._lock:
                    trials, best = [self.finished[n] for n in sorted(self.finished)], self.front
                self._volumes = (len(trials), growth(self.study, trials, best))
            return self._volumes[1]


def listed(rows: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


class StudyViews:
    """The views of all studies that were requested."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._views: dict[str, View] = {}
        self._lock = threading.Lock()

    def view(self, name: str) -> View:
        """The refreshed view of a study. Raises UnknownStudy."""
        if not name.isprintable():
            raise UnknownStudy("a study's name must be printable text")
        with self._lock:
            found = self._views.get(name)
        if found is not None:
            try:
                return found.refresh()
            except UnknownStudy:  # deleted or renamed; another study may have the name now
                with self._lock:
                    self._views.pop(name, None)
        made = View(self._store, self._store.study(name))
        with self._lock:
            found = self._views.setdefault(name, made)
        return found.refresh()

    def fresh(self, name: str) -> View | None:
        """The view if it needs no refresh, else None."""
        found = self._views.get(name)
        return found if found is not None and found.is_fresh else None
