"""Measured latencies of a study's networks, which replace the predictions that the search used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from searchspace.spec.measurement import Measurement
from studies.records import Objective, Study, Trial
from studies.store import Store

Latencies = Mapping[str, float]  # ms by architecture id
NOT_TIMED: Latencies = MappingProxyType({})


def latencies(store: Store, study: Study, trials: Sequence[Trial]) -> Latencies:
    """Return the latencies that were measured for this study, of the networks of these trials."""
    found = store.measurements(subjects=[t.arch_id for t in trials], quantity="latency") if trials else []
    return {arch_id: m.value for arch_id, m in timed(study, found).items()}


def timed(study: Study, found: Iterable[Measurement]) -> dict[str, Measurement]:
    """Return the study's newest latency per subject, on the device on which most subjects were timed.

    Times of different devices, workloads or runtimes are not comparable.
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
    """Return the trials with measured latencies in place of predicted ones where available."""
    if not any(o.name == "latency" and o.source == "predicted" for o in objectives):
        return list(trials)
    return [
        replace(t, values={**t.values, "latency": latencies[t.arch_id]}) if t.arch_id in latencies else t
        for t in trials
    ]
