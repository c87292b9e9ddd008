"""Profiles of a new device from few timings: another device's operators, corrected on networks measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable, fit_correction
from predictors.network_bench import rounded
from predictors.profiling import (
    OnProgress,
    calibration_architectures,
    checked_profile,
    empty_profile,
    graphs_folder,
    local_profile_folder,
    measured_networks,
)
from predictors.runtimes import EAGER
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload


def adapted_profile(
    space: SpaceSpec,
    workload: Workload,
    root: Path,
    sources: Mapping[Path, DeviceProfile],
    samples: int,
    device: str = "cpu",
    *,
    threads: int = 1,
    runtime: str = EAGER,
    on_progress: OnProgress | None = None,
) -> DeviceProfile:
    """Return a profile of this device with the operators of the source profile that best explains `samples` networks.

    It is stored below `root`. Raises ValueError where no source has the space's operators, or where a full profile of
    this device exists.
    """
    folder = local_profile_folder(workload, root, device, threads=threads, runtime=runtime)
    if (folder / "profile.toml").is_file() and not checked_profile(
        folder, workload, device, threads, runtime
    ).adapted_from:
        raise ValueError(f"{folder} is a full profile of this device and workload: nothing is to be adapted")
    say = on_progress or (lambda done, of, text: None)
    archs = tuple(calibration_architectures(space, workload, samples).values())
    say(0, 1, f"timing {len(archs)} networks")
    profile = empty_profile(workload, device, threads, runtime)
    timed = measured_networks(space, archs, profile, device, graphs_folder(folder))
    profile = replace(profile, networks=timed)
    say(1, 1, f"timing {len(archs)} networks")
    measured = {path: source for path, source in sources.items() if not source.adapted_from}
    candidates = {path: adapted_to(profile, source) for path, source in measured.items() if path != folder}
    errors = {
        path: error for path, found in candidates.items() if (error := left_out_error(found)) is not None
    }
    if not errors:
        raise ValueError(
            f"none of {len(candidates)} known profiles has the operators of {space.name}: measure one in full on any "
            "device first, without --samples"
        )
    best = candidates[min(errors, key=errors.__getitem__)]
    best.save(folder)
    return best


def adapted_to(profile: DeviceProfile, source: DeviceProfile) -> DeviceProfile:
    """Return `profile` with the operators of `source`, scaled to the reference latency of `profile`."""
    assert source.reference_id == profile.reference_id
    scale = profile.reference_ms / source.reference_ms
    return replace(
        profile,
        adapted_from=f"{source.device}, {source.workload}"
        + ("" if source.runtime == EAGER else f", {source.runtime}"),
        source_workload=source.source_workload or source.workload,
        operators=tuple(
            replace(row, value=rounded(row.value * scale), p10=None, p90=None, reference=profile.reference_ms)
            for row in source.operators
        ),
        work=source.work,
    )


def left_out_error(profile: DeviceProfile) -> float | None:
    """Return the mean left-out error on the profile's networks; None where its table lacks operators of theirs."""
    table = OperatorTable(profile)
    try:
        sums = np.array([table.sums(row.arch) for row in profile.networks])
    except ValueError:
        return None
    return fit_correction(sums, np.array([row.measurement.value for row in profile.networks])).error
