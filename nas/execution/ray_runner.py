"""A runner with actors of a Ray cluster: an existing one, or a local one that is started for the search.

An actor loads the judge once. It receives its next trial while it evaluates one, so that it never waits for the
driver. An actor that dies with its process or node is replaced. Each folder that the judge reads is copied to a node
once, through Ray's object store, and found there by its content id.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nas.errors import UsageError
from nas.execution.outcome import Evaluate, evaluate_trial
from nas.execution.runner import IN_FLIGHT
from nas.execution.shipping import moved, pack, this_host, unpack
from nas.execution.worker import EvaluatorSpec
from nas.machine import num_cores
from studies.records import Objective, Outcome, Trial, TrialState

START_SECONDS = 300.0
CONNECT_SECONDS = 10.0
MAX_FAILED_STARTS = 3
PACKAGES = ("nas", "searchspace", "proxies", "predictors", "studies")


@dataclass(frozen=True)
class Cluster:
    """A cluster: the `address` HOST:PORT of an existing one, "" to start one; number and GPUs of its actors."""

    address: str = ""
    num_workers: int = 0
    gpus_per_worker: float = 0.0


@dataclass(frozen=True)
class _Parcels:
    """Paths of files and folders on the driver's `host`, each with a Ray reference to its packed content."""

    host: str
    contents: dict[str, Any]

    def places(self) -> dict[str, str]:
        """The local path for each path of the driver; fetches and unpacks the contents on another host."""
        if this_host() == self.host:
            return {}
        return {path: str(unpack(ray.get(content))) for path, content in self.contents.items()}


class _Judge:
    """The actor. `ready` returns why it could not start, because an actor whose constructor fails has no message."""

    def __init__(self, name: str, spec: str, objectives: str, parcels: _Parcels) -> None:
        self._name = name
        self._objectives = [Objective.from_json(o) for o in json.loads(objectives)]
        self._evaluate: Evaluate | None = None
        self._problem = ""
        try:
            wanted = EvaluatorSpec(**json.loads(spec))
            self._evaluate = EvaluatorSpec(wanted.target, moved(wanted.settings, parcels.places())).load()
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"

    def ready(self) -> str:
        return self._problem

    def evaluate(self, number: int, arch: dict[str, Any], fidelity: str) -> dict[str, Any]:
        assert self._evaluate is not None
        trial = Trial(number, arch, "", fidelity=fidelity)
        return asdict(evaluate_trial(self._evaluate, trial, self._objectives, self._name))


@dataclass
class _Actor:
    name: str
    handle: Any
    is_ready: bool = False
    trials: deque[Trial] = field(default_factory=deque)  # in the order in which it evaluates them


class RayRunner:
    through_database = False

    def __init__(
        self,
        spec: EvaluatorSpec,
        objectives: Sequence[Objective],
        cluster: Cluster,
        shipped: Sequence[str] = (),
    ) -> None:
        """`shipped` are the paths in the settings whose files every node needs. Raises UsageError like `connect`."""
        self._target = spec.target
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            connect(cluster, spec.target)
        num_workers = cluster.num_workers or _places(cluster)
        self.capacity = IN_FLIGHT * num_workers
        self._waiting: deque[Trial] = deque()
        self._bereaved: set[int] = set()  # trials whose actor died once
        self._failed_starts = 0
        self._had_workers_at = time.monotonic()
        self._judge: Any = ray.remote(num_cpus=1, num_gpus=cluster.gpus_per_worker)(_Judge)
        parcels = _Parcels(this_host(), {path: ray.put(pack(Path(path))) for path in shipped})
        self._arguments = json.dumps(asdict(spec)), json.dumps([o.to_json() for o in objectives]), parcels
        self._pending: dict[
            Any, _Actor
        ] = {}  # Ray references to a future `ready` or outcome, with their actors
        self._actors = [self._start(f"ray-{i}") for i in range(num_workers)]

    def submit(self, trial: Trial) -> None:
        self._waiting.append(trial)
        self._hand_out()

    def wait(self, timeout_seconds: float | None = None) -> list[Outcome]:
        """See `Runner.wait`. Raises UsageError if the evaluator can't start, or no actor started in START_SECONDS."""
        outcomes: list[Outcome] = []
        returns_at = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not outcomes:
            if time.monotonic() >= returns_at:
                break
            ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=min(1.0, timeout_seconds or 1.0))
            if ready:  # also collect all others that are ready by now
                ready, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
            for answer in ready:
                outcomes += self._receive(answer)
            self._hand_out()
            if any(a.is_ready for a in self._actors):
                self._had_workers_at = time.monotonic()
            elif time.monotonic() - self._had_workers_at > START_SECONDS:
                offer = ", ".join(f"{count:g} {name}" for name, count in _resources().items())
                raise UsageError(
                    f"--runner ray: no worker could start in {START_SECONDS:.0f} s; the cluster has {offer}, and "
                    f"each worker needs 1 CPU and the GPUs of --gpus-per-worker"
                )
        return outcomes

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors.clear()
        self._pending.clear()
        if self._is_ours:
            ray.shutdown()

    def _start(self, name: str) -> _Actor:
        handle = self._judge.remote(name, *self._arguments)
        actor = _Actor(name, handle)
        self._pending[handle.ready.remote()] = actor
        return actor

    def _hand_out(self) -> None:
        """Give one trial to each ready actor before any gets its second.

        A trial whose actor died shares its next actor with no other trial: a second one could kill the process before
        the first one's outcome is sent, and the first one would be blamed.
        """
        for depth in range(IN_FLIGHT):
            for actor in self._actors:
                if self._waiting and actor.is_ready and len(actor.trials) == depth:
                    if depth and (self._goes_alone(self._waiting[0]) or self._goes_alone(actor.trials[0])):
                        continue
                    trial = self._waiting.popleft()
                    actor.trials.append(trial)
                    self._pending[actor.handle.evaluate.remote(trial.number, trial.arch, trial.fidelity)] = (
                        actor
                    )

    def _goes_alone(self, trial: Trial) -> bool:
        return trial.number in self._bereaved

    def _receive(self, answer: Any) -> list[Outcome]:
        actor = self._pending.pop(answer, None)
        if actor is None:  # its actor was replaced in the meantime
            return []
        try:
            found = ray.get(answer)
        except RayTaskError:
            raise  # a bug of this file: what a judge raises becomes an outcome
        except RayError as error:
            return self._bury(actor, error)
        if isinstance(found, str):
            if found:
                raise UsageError(f"evaluator {self._target!r} can't start: {found}")
            actor.is_ready = True
            self._failed_starts = 0
            return []
        outcome = Outcome(**found)
        actor.trials = deque(t for t in actor.trials if t.number != outcome.number)
        return [outcome]

    def _bury(self, actor: _Actor, error: RayError) -> list[Outcome]:
        """Replace a dead actor. Its first trial is retried once; later ones had not begun and are submitted again."""
        self._pending = {answer: a for answer, a in self._pending.items() if a is not actor}
        ray.kill(actor.handle)  # in case it was only unreachable
        reason = " ".join(str(error).split())
        if not actor.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise UsageError(f"evaluator {self._target!r} can't start: {reason}")
        self._actors[self._actors.index(actor)] = self._start(actor.name)
        outcomes = []
        if actor.trials and actor.trials[0].number in self._bereaved:
            lost = actor.trials.popleft()
            outcomes.append(
                Outcome(lost.number, TrialState.FAILED, error=f"worker died: {reason}", worker=actor.name)
            )
        elif actor.trials:
            self._bereaved.add(actor.trials[0].number)
        self._waiting.extendleft(reversed(actor.trials))
        return outcomes


def connect(cluster: Cluster, target: str) -> None:
    """Connect to the cluster, or start one; the package of module `target` and this project's are copied to it.

    Raises UsageError if there is no cluster at the address, or if the target's module is not in a package.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray prints a deprecation warning
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not cluster.address:
        cores = cluster.num_workers or num_cores()
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        return
    code = {"py_modules": [_package_folder(name) for name in {*PACKAGES, target.split(".")[0]}]}
    try:
        host, _, port = cluster.address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()  # Ray itself tries for minutes
        ray.init(address=cluster.address, runtime_env=code, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UsageError(
            f"--address {cluster.address}: no Ray cluster can be used there ({reason}); give the HOST:PORT "
            f"that `ray start --head` printed"
        ) from error


def _package_folder(name: str) -> str:
    """The folder of package `name`, for Ray to copy to the nodes. Raises UsageError if `name` is no package."""
    folders = list(getattr(import_module(name), "__path__", []))
    if not folders:
        raise UsageError(
            f"--runner ray: {name!r} is a module without a package; only packages can be copied to other machines"
        )
    return str(folders[0])


def _places(cluster: Cluster) -> int:
    """The number of workers that fit into the cluster."""
    total = _resources()
    num = int(total.get("CPU", 0))
    if cluster.gpus_per_worker:
        num = min(num, int(total.get("GPU", 0) / cluster.gpus_per_worker))
    return max(1, num)


def _resources() -> dict[str, float]:
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: total.get(name, 0.0) for name in ("CPU", "GPU")}
