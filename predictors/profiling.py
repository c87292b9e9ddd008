"""This machine's profile for a workload: measured when first needed, stored, and reused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from predictors.device import DeviceProfile, NetworkRow, device_name, profile_folder, software
from predictors.lookup import MIN_NETWORKS
from predictors.network_bench import REFERENCE, measure_networks, reference_call, rounded
from predictors.operator_grid import Setting, chosen_settings, measure_settings, operator_row
from predictors.rates import FLOPS_PER_SECOND
from predictors.runtimes import EAGER, ONNXRUNTIME
from predictors.timing import MIN_ROUNDS, num_threads, time_interleaved
from searchspace.cost import cost
from searchspace.model import Model
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.measurement import Measurement
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

NUM_NETWORKS = 16
CALIBRATION_SEED = 20_000
SECONDS_OF_SAMPLE = 0.0025  # for a small subject and a run of the reference, on one thread
WANTED_ROUNDS = 10
MOST_EXPORTS = 240  # settings in onnxruntime, since exporting a graph takes longer than timing it
LEAST_CALLS = 4 + MIN_ROUNDS  # per subject: the first one, warm-up, the rounds
OPERATOR_SECONDS, NETWORK_SECONDS = 25.0, 60.0
GROUP_PARAMETERS = 250e6  # of networks timed in alternation, which are all in memory
SAMPLED = 64  # settings whose FLOPs are taken as typical
CHUNK = 40  # settings that are timed in alternation and saved together
CRASHED = "the process ended twice while this was run for the first time"
OnProgress = Callable[[int, int, str], None]


def local_profile(
    space: SpaceSpec,
    workload: Workload,
    root: Path,
    device: str = "cpu",
    *,
    threads: int = 1,
    seconds_budget: float = OPERATOR_SECONDS,
    num_networks: int = NUM_NETWORKS,
    network_seconds: float = NETWORK_SECONDS,
    only_stable: bool = False,
    runtime: str = EAGER,
    on_progress: OnProgress | None = None,
) -> DeviceProfile:
    """Return the profile stored below `root`, after measuring what this space needs and the profile lacks.

    Where the budget does not allow all operator settings, a subset that covers all values is measured and the others
    are
    interpolated on demand. Where `network_seconds` do not allow `num_networks` networks, fewer are measured, but at
    least
    MIN_NETWORKS. The time of a call is estimated in advance from its FLOPs. Every result is saved at once, so a killed
    run continues where it ended; a setting that ended the process twice is recorded as a failure. `only_stable` repeats
    measurements that an earlier run made at an unstable speed. `on_progress` receives (steps done, total steps, what is
    done). Raises ValueError where a network does not run.
    """
    folder = local_profile_folder(workload, root, device, threads=threads, runtime=runtime)
    if folder.is_dir() and (folder / "profile.toml").is_file():
        profile = checked_profile(folder, workload, device, threads, runtime)
    else:
        profile = empty_profile(workload, device, threads, runtime)
    say = on_progress or (lambda done, of, text: None)
    profile = _with_crash(profile, folder)
    if only_stable:
        profile = replace(
            profile,
            operators=tuple(row for row in profile.operators if not is_unstable(row)),
            networks=tuple(row for row in profile.networks if not is_unstable(row.measurement)),
        )
    missing = _missing_settings(space, profile, seconds_budget, device)
    text = f"operator settings, {seconds_budget:.0f} s or somewhat more"
    for start in range(0, len(missing), CHUNK):
        say(start, len(missing), text)
        chunk = missing[start : start + CHUNK]
        profile = _measured(profile, chunk, device, folder, seconds_budget * len(chunk) / len(missing))
        say(start + len(chunk), len(missing), text)
    return _with_networks(space, profile, device, num_networks, network_seconds, folder, say)


def is_complete(
    space: SpaceSpec,
    workload: Workload,
    root: Path,
    device: str = "cpu",
    *,
    threads: int = 1,
    seconds_budget: float = OPERATOR_SECONDS,
    num_networks: int = NUM_NETWORKS,
    network_seconds: float = NETWORK_SECONDS,
    runtime: str = EAGER,
) -> bool:
    """Return whether `local_profile` would find everything it needs below `root` and measure nothing."""
    folder = local_profile_folder(workload, root, device, threads=threads, runtime=runtime)
    if not (folder / "profile.toml").is_file() or _running(folder).is_file():
        return False
    profile = checked_profile(folder, workload, device, threads, runtime)
    return not (
        _missing_settings(space, profile, seconds_budget, device)
        or _missing_networks(space, profile, num_networks, network_seconds, device)
    )


def seconds_of_call(flops: float, device: str) -> float:
    """Return the estimated seconds of one call together with a run of the reference."""
    return max(SECONDS_OF_SAMPLE, flops / FLOPS_PER_SECOND[device])


def _missing_settings(
    space: SpaceSpec, profile: DeviceProfile, seconds_budget: float, device: str
) -> list[Setting]:
    def wanted_at(seconds: float) -> list[Setting]:
        limit = max(1, int(seconds_budget / (seconds * WANTED_ROUNDS)))
        if profile.runtime == ONNXRUNTIME:
            limit = min(limit, MOST_EXPORTS)
        return chosen_settings(space, profile.workload, limit)

    wanted = wanted_at(SECONDS_OF_SAMPLE)
    some = wanted[:: math.ceil(len(wanted) / SAMPLED)]
    flops = [operator_row(s, profile.workload).flops for s in some]
    each = sum(seconds_of_call(f, device) for f in flops) / len(flops)
    if each > SECONDS_OF_SAMPLE:
        wanted = wanted_at(each)
    have = {row.subject for row in profile.operators} | set(profile.failures)
    return [s for s in wanted if s.key not in have]


def _missing_networks(
    space: SpaceSpec, profile: DeviceProfile, count: int, seconds: float, device: str
) -> list[ArchSpec]:
    have = {row.measurement.subject for row in profile.networks if row.space == space.name}
    wanted = wanted_networks(space, profile.workload, count, seconds, device)
    return [arch for arch in wanted if arch.id not in have]


def wanted_networks(
    space: SpaceSpec, workload: Workload, count: int, seconds: float, device: str
) -> list[ArchSpec]:
    """Return the first of `count` calibration networks that fit into `seconds`, but at least MIN_NETWORKS."""
    found: list[ArchSpec] = []
    for arch in calibration_architectures(space, workload, count).values():
        seconds -= LEAST_CALLS * seconds_of_call(cost(arch, workload).flops, device)
        if seconds < 0 and len(found) >= MIN_NETWORKS:
            break
        found.append(arch)
    return found


def _measured(
    profile: DeviceProfile, chunk: Sequence[Setting], device: str, folder: Path, seconds: float
) -> DeviceProfile:
    """The profile with these settings measured and saved."""
    folder.mkdir(parents=True, exist_ok=True)
    running = _running(folder)
    rows, failures = measure_settings(
        chunk,
        profile.workload,
        device,
        seconds=seconds,
        nominal_ms=profile.reference_ms,
        threads=profile.threads,
        runtime=profile.runtime,
        graphs=graphs_folder(folder),
        on_setting=lambda setting: _write(running, setting.key),
        on_all_run=lambda: running.unlink(missing_ok=True),
    )
    running.unlink(missing_ok=True)
    by_key = {s.key: s for s in chunk}
    work = {row.subject: operator_row(by_key[row.subject], profile.workload) for row in rows}
    profile = replace(
        profile,
        operators=(*profile.operators, *rows),
        work={**profile.work, **{key: (w.flops, w.bytes) for key, w in work.items()}},
        failures={**profile.failures, **failures},
    )
    profile.save(folder)
    return profile


def _running(folder: Path) -> Path:
    """The file that holds the key of the setting whose first run is in progress."""
    return folder / "running.txt"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _with_crash(profile: DeviceProfile, folder: Path) -> DeviceProfile:
    """The profile, with a setting marked as failed where the process ended twice during its first run.

    One such end says nothing about the setting, since a process may be killed at any time.
    """
    running, ended = _running(folder), folder / "ended.txt"
    if not running.is_file():
        return profile
    key = running.read_text(encoding="utf-8")
    before = ended.read_text(encoding="utf-8").splitlines() if ended.is_file() else []
    if key in before:
        profile = replace(profile, failures={**profile.failures, key: CRASHED})
        profile.save(folder)
    else:
        _write(ended, "\n".join([*before, key]))
    running.unlink()
    return profile


def is_unstable(row: Measurement) -> bool:
    """Return whether the reference changed its speed in every run behind this number."""
    return "unstable speed" in row.method


def local_profile_folder(
    workload: Workload, root: Path, device: str = "cpu", *, threads: int = 1, runtime: str = EAGER
) -> Path:
    """Return the folder of the local profile of this device, runtime and software; its name identifies it."""
    return profile_folder(root, device, threads, workload, REFERENCE.id, runtime)


def graphs_folder(profile: Path) -> Path:
    """Return the folder of onnxruntime's graphs, shared by all profiles next to this one."""
    return profile.parent / "graphs"


def checked_profile(
    folder: Path, workload: Workload, device: str, threads: int, runtime: str = EAGER
) -> DeviceProfile:
    """Return the profile in `folder`. Raises ValueError where it is for another device, workload or software."""
    profile = DeviceProfile.load(folder)
    reason = profile.why_unfit(device, threads, workload, REFERENCE.id, runtime)
    if reason is not None:
        raise ValueError(f"{folder}: {reason}")
    return profile


def empty_profile(workload: Workload, device: str, threads: int, runtime: str = EAGER) -> DeviceProfile:
    """Return a new profile of this device, with only the reference network measured."""
    with num_threads(threads):
        reference = reference_call(device)
        timing = time_interleaved({"again": reference}, reference, device=device, samples=50)["again"]
    return DeviceProfile(
        device=device_name(device, threads),
        software=software(runtime),
        threads=threads,
        workload=workload,
        reference_id=REFERENCE.id,
        reference_ms=rounded(timing.reference_ms),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=runtime,
    )


def _with_networks(
    space: SpaceSpec,
    profile: DeviceProfile,
    device: str,
    count: int,
    seconds: float,
    folder: Path,
    say: OnProgress,
) -> DeviceProfile:
    """The profile with the space's missing calibration networks measured, saved group by group."""
    missing = _missing_networks(space, profile, count, seconds, device)
    about = f", {seconds:.0f} s or somewhat more" if math.isfinite(seconds) else ""
    done, text = 0, f"calibration networks{about}"
    for group in _groups(missing, profile.workload):
        say(done, len(missing), text)
        share = seconds * len(group) / len(missing)
        networks = measured_networks(space, group, profile, device, graphs_folder(folder), share)
        profile = replace(profile, networks=(*profile.networks, *networks))
        profile.save(folder)
        done += len(group)
        say(done, len(missing), text)
    return profile


def _groups(archs: Sequence[ArchSpec], workload: Workload) -> Iterator[list[ArchSpec]]:
    """Groups of at most NUM_NETWORKS networks and, for more than one, GROUP_PARAMETERS parameters."""
    group: list[ArchSpec] = []
    held = 0.0
    for arch in archs:
        size = cost(arch, workload).parameters
        if group and (len(group) == NUM_NETWORKS or held + size > GROUP_PARAMETERS):
            yield group
            group, held = [], 0.0
        group.append(arch)
        held += size
    if group:
        yield group


def measured_networks(
    space: SpaceSpec,
    archs: Sequence[ArchSpec],
    profile: DeviceProfile,
    device: str,
    graphs: Path | None = None,
    seconds: float = math.inf,
) -> tuple[NetworkRow, ...]:
    """Return the networks' latencies scaled to the profile's reference; `seconds` bounds the timing.

    Raises ValueError naming a network that does not run.
    """
    by_id = {arch.id: arch for arch in archs}
    rows, failures = measure_networks(
        random_models(archs),
        profile.workload,
        device,
        nominal_ms=profile.reference_ms,
        threads=profile.threads,
        runtime=profile.runtime,
        graphs=graphs,
        seconds=seconds,
    )
    if failures:
        name, reason = next(iter(failures.items()))
        raise ValueError(f"architecture {name} of {space.name} does not run on {device}: {reason}")
    return tuple(NetworkRow(space.name, by_id[row.subject], row) for row in rows)


def calibration_architectures(space: SpaceSpec, workload: Workload, count: int) -> dict[str, ArchSpec]:
    """Return random valid architectures by id; fewer than `count` where the space has no more."""
    found: dict[str, ArchSpec] = {}
    draws = valid_architectures(Encoding(space), np.random.default_rng(CALIBRATION_SEED), workload)
    for _, arch in islice(draws, 64 * count):
        found.setdefault(arch.id, arch)
        if len(found) == count:
            break
    return found


def random_models(archs: Sequence[ArchSpec]) -> dict[str, Model]:
    """Return models with random weights by architecture id; latency does not depend on the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {arch.id: Model(arch).eval() for arch in archs}
