"""Finalists: networks of the front that are timed, so that predicted and measured latency can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nas import measuring
from nas.errors import ArtifactError
from nas.request.recipe import Recipe
from nas.setup.plan import recipe_of
from searchspace.spec.arch import ArchSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload
from studies.pareto import front
from studies.records import Study, Trial, TrialState
from studies.store import Store
from studies.worth import Worth, best_plain, handed_over, worth

SECONDS = 60.0  # of timing, after the first rounds
MAX_CRASHES = 2  # the first crash may have another cause on the machine

Timed = tuple[list[Measurement], dict[str, str]]  # measurements, and reasons of failures by architecture
Timing = Callable[[Sequence[ArchSpec], measuring.OnProgress], Timed]


@dataclass(frozen=True)
class Latency:
    """The search's predicted latency in ms and the network's measurement, None if it was not timed here.

    `upper` is a bound in ms that the search applied to the prediction and the measurement should meet too.
    """

    predicted: float
    measured: Measurement | None
    upper: float | None = None

    def to_json(self) -> dict[str, Any]:
        m = self.measured
        if m is None:
            return {"predicted": self.predicted, "measured": None}
        spread = {
            "p10": m.p10,
            "p90": m.p90,
            "samples": m.samples,
            "device": m.device,
            "runtime": m.implementation,
            "measured_at": m.measured_at,
        }
        bound = {} if self.upper is None else {"over_bound": m.value > self.upper}
        return {"predicted": self.predicted, "measured": m.value, **spread, **bound}


def measure_finalists(
    store: Store, study: Study, recipe: Recipe, profile: Path, on_progress: Callable[[int, int], None]
) -> list[Measurement]:
    """Time up to `recipe.finalists` networks of the front, its knee, and the best plain networks; returns measurements.

    Networks that were timed on this device before are skipped. Raises ArtifactError and MeasuringFailed like `measure`.
    """
    trials = store.trials(study)
    members, plain = front(trials, study.objectives), best_plain(study, trials)
    known = measured_latencies(store, study, recipe, (t.arch_id for t in [*members, *plain]))
    knee = handed_over(study, trials, members, {arch_id: m.value for arch_id, m in known.items()})
    kept = [*spread(members, recipe.finalists), *([knee] if knee else []), *plain]
    wanted = {t.arch_id: t for t in kept}
    chosen = [t for t in wanted.values() if t.arch_id not in known]
    archs = [ArchSpec.from_json(t.arch) for t in chosen]
    return measure(store, study, recipe, profile, archs, on_progress) if chosen else []


def measure(
    store: Store,
    study: Study,
    recipe: Recipe,
    profile: Path,
    archs: Sequence[ArchSpec],
    on_progress: Callable[[int, int], None],
) -> list[Measurement]:
    """Time networks, with random weights, on this device; stores and returns the measurements in ms.

    They are scaled to the reference latency of the study's profile, to be comparable with predictions. Raises
    ArtifactError naming a network that can't run here, and MeasuringFailed if timing fails as a whole.
    """
    from predictors.device import DeviceProfile
    from searchspace.kernels import dispatch

    device, nominal_ms = study.settings.device, DeviceProfile.load(profile).reference_ms
    timing = partial(_run, recipe.workload, device, study.runtime, nominal_ms, profile)
    with dispatch.use(study.settings.kernels):
        found, failures = _time(timing, archs, device, on_progress)
    store.add_measurements(found)
    for arch_id, reason in failures.items():
        raise ArtifactError(f"network {arch_id} could not be timed on this device: {reason}")
    return found


def _time(
    timing: Timing, archs: Sequence[ArchSpec], device: str, on_progress: Callable[[int, int], None]
) -> Timed:
    """Time networks together or, if one of them kills the process, one by one, so that only that one fails."""

    def say(done: int, total: int, text: str) -> None:
        on_progress(done, total)

    try:
        return measuring.measure(partial(timing, archs), device, say, MAX_CRASHES)
    except measuring.MeasuringCrashed as crash:
        if len(archs) == 1:
            return [], {archs[0].id: str(crash)}
    found: list[Measurement] = []
    failures: dict[str, str] = {}
    for arch in archs:
        timed, failed = _time(timing, [arch], device, on_progress)
        found += timed
        failures |= failed
    return found, failures


def _run(
    workload: Workload,
    device: str,
    runtime: str,
    nominal_ms: float,
    profile: Path,
    archs: Sequence[ArchSpec],
    on_progress: measuring.OnProgress,
) -> Timed:
    from predictors.network_bench import measure_networks
    from predictors.profiling import graphs_folder, random_models

    def on_round(done: int, total: int) -> None:
        on_progress(done, total, "networks")

    return measure_networks(
        random_models(archs),
        workload,
        device,
        nominal_ms=nominal_ms,
        runtime=runtime,
        graphs=graphs_folder(profile),
        seconds=SECONDS,
        on_round=on_round,
    )


def measured_latencies(
    store: Store, study: Study, recipe: Recipe, arch_ids: Iterable[str]
) -> dict[str, Measurement]:
    """The newest latency measured on the study's device, with its runtime and workload, by architecture's id."""
    from predictors.device import device_name

    name = study.settings.target or device_name(study.settings.device)
    wanted = set(arch_ids)
    rows = store.measurements(quantity="latency", device=name, workload=recipe.workload)
    rows = [m for m in rows if m.subject in wanted and study.concerns(m)]
    return {m.subject: m for m in sorted(rows, key=lambda m: m.measured_at)}


def worth_of(store: Store, study: Study, trials: Sequence[Trial]) -> Worth | None:
    """The comparison of the search with the plain networks, by measured latencies where available."""
    if not any(o.name == "latency" and o.source == "predicted" for o in study.objectives):
        return worth(study, trials, {})
    ids = {t.arch_id for t in trials if t.state == TrialState.COMPLETE}
    return worth(study, trials, measured_latencies(store, study, recipe_of(study), ids))


def spread(trials: list[Trial], count: int) -> list[Trial]:
    """At most `count` of the trials, evenly spread over their order, including both ends."""
    if len(trials) <= count:
        return trials
    if count < 2:
        return trials[:count]
    return [trials[round(i * (len(trials) - 1) / (count - 1))] for i in range(count)]
