"""What networks of a study took where they were timed: it counts in place of what the search believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from searchspace.spec.measurement import Measurement
from studies.records import Objective, Study, Trial
from studies.store import Store

Latencies = Mapping[str, float]  # in ms, by content id of the network
NOT_TIMED: Latencies = MappingProxyType({})


def latencies(store: Store, study: Study, trials: Sequence[Trial]) -> Latencies:
    """Of the networks of these trials that were timed for the study."""
    found = store.measurements(subjects=[t.arch_id for t in trials], quantity="latency") if trials else []
    return {arch_id: m.value for arch_id, m in timed(study, found).items()}


def timed(study: Study, found: Iterable[Measurement]) -> dict[str, Measurement]:
    """The newest of the study's latencies by subject, of the device on which most subjects were timed.

    Times of two devices, workloads or runtimes don't compare.
    """
    workload = next((o.workload for o in study.objectives if o.source == "predicted"), None)
    found = [m for m in found if m.quantity == "latency" and m.workload == workload and study.concerns(m)]
    devices: dict[str, dict[str, Measurement]] = {}
    for m in sorted(found, key=lambda m: m.measured_at):
        devices.setdefault(m.device, {})[m.subject] = m
    return max(devices.values(), key=len, default={})


def as_measured(
    trials: Sequence[Trial], objectives: Sequence[Objective], latencies: Latencies
) -> list[Trial]:
    """The trials with the latency that was measured in place of the predicted one, where one was."""
    if not any(o.name == "latency" and o.source == "predicted" for o in objectives):
        return list(trials)
    return [
        replace(t, values={**t.values, "latency": latencies[t.arch_id]}) if t.arch_id in latencies else t
        for t in trials
    ]
