"""The profile of this machine for a workload: measured where it is first needed, kept, and reused after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from predictors.device import DeviceProfile, NetworkRow, device_name, profile_folder, software
from predictors.network_bench import REFERENCE, measure_networks, reference_call, rounded
from predictors.operator_grid import measure_settings, settings
from predictors.timing import num_threads, time_interleaved
from searchspace.model import Model
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

NUM_NETWORKS = 16
CALIBRATION_SEED = 20_000


def local_profile(
    space: SpaceSpec,
    workload: Workload,
    root: Path,
    device: str = "cpu",
    *,
    threads: int = 1,
    seconds_budget: float = 25.0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> DeviceProfile:
    """The profile kept below `root`, completed with whatever this space uses and it does not have yet.

    `on_progress` hears (rounds done, rounds in all, what is being done).
    Raises ValueError where an operator setting can't be run on this device.
    """
    folder = local_profile_folder(workload, root, device, threads=threads)
    if folder.is_dir():
        profile = checked_profile(folder, workload, device, threads)
    else:
        profile = _empty_profile(workload, device, threads)
    say = on_progress or (lambda done, of, text: None)
    wanted = settings(space)
    have = {row.subject for row in profile.operators}
    missing = [s for s in wanted if s.key not in have]
    if missing:
        rows, failures = measure_settings(
            wanted,
            workload,
            device,
            seconds_budget=seconds_budget,
            known=profile.operators,
            nominal_ms=profile.reference_ms,
            threads=threads,
            on_progress=lambda done, of: say(done, of, f"{len(missing)} operator settings"),
        )
        num_interpolated = sum(row.samples == 0 for row in rows)
        say(1, 1, f"{len(missing)} operator settings added, {num_interpolated} of {len(rows)} interpolated")
        profile = replace(profile, operators=tuple(rows))
        profile.save(folder)  # before anything is refused, so that what was measured is kept
        if failures:
            setting, reason = next(iter(failures.items()))
            raise ValueError(
                f"{len(failures)} operator settings don't run on {device}; the first: {setting}: {reason}"
            )
    if not any(row.space == space.name for row in profile.networks):
        profile = replace(profile, networks=profile.networks + _networks(space, profile, device, say))
        profile.save(folder)
    return profile


def local_profile_folder(workload: Workload, root: Path, device: str = "cpu", *, threads: int = 1) -> Path:
    """Where the local profile of this device and software is kept; its name identifies it."""
    return profile_folder(root, device, threads, workload, REFERENCE.id)


def checked_profile(folder: Path, workload: Workload, device: str, threads: int) -> DeviceProfile:
    """The profile in `folder`. Raises ValueError where it belongs to something else than what is asked for."""
    profile = DeviceProfile.load(folder)
    reason = profile.why_unfit(device, threads, workload, REFERENCE.id)
    if reason is not None:
        raise ValueError(f"{folder}: {reason}")
    return profile


def _empty_profile(workload: Workload, device: str, threads: int) -> DeviceProfile:
    with num_threads(threads):
        reference = reference_call(device)
        timing = time_interleaved({"again": reference}, reference, device=device, samples=50)["again"]
    return DeviceProfile(
        device=device_name(device, threads),
        software=software(),
        threads=threads,
        workload=workload,
        reference_id=REFERENCE.id,
        reference_ms=rounded(timing.reference_ms),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _networks(
    space: SpaceSpec, profile: DeviceProfile, device: str, say: Callable[[int, int, str], None]
) -> tuple[NetworkRow, ...]:
    archs = _calibration_architectures(space, profile.workload)
    rows, failures = measure_networks(
        random_models(tuple(archs.values())),
        profile.workload,
        device,
        nominal_ms=profile.reference_ms,
        threads=profile.threads,
        on_round=lambda done, of: say(done, of, f"calibrating on {NUM_NETWORKS} networks"),
    )
    if failures:
        name, reason = next(iter(failures.items()))
        raise ValueError(f"architecture {name} of {space.name} does not run on {device}: {reason}")
    return tuple(NetworkRow(space.name, archs[row.subject], row) for row in rows)


def _calibration_architectures(space: SpaceSpec, workload: Workload) -> dict[str, ArchSpec]:
    """Random valid architectures by id; fewer than NUM_NETWORKS where the space has no more."""
    found: dict[str, ArchSpec] = {}
    draws = valid_architectures(Encoding(space), np.random.default_rng(CALIBRATION_SEED), workload)
    for _, arch in islice(draws, 64 * NUM_NETWORKS):
        found.setdefault(arch.id, arch)
        if len(found) == NUM_NETWORKS:
            break
    return found


def random_models(archs: Sequence[ArchSpec]) -> dict[str, Model]:
    """Models with random weights by architecture id: latency does not depend on what the weights are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {arch.id: Model(arch).eval() for arch in archs}
