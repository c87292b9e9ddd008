"""The profile of this machine for a workload: measured where it is first needed, kept, and reused after."""

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
SECONDS_OF_SAMPLE = 0.0025  # of a small subject and the reference beside it, on one thread
WANTED_ROUNDS = 10
MOST_EXPORTS = 240  # settings in onnxruntime: each has a graph, which takes longer to make than to time
LEAST_CALLS = 4 + MIN_ROUNDS  # of a subject: the first, those that warm up, the rounds
OPERATOR_SECONDS, NETWORK_SECONDS = 25.0, 60.0
GROUP_PARAMETERS = 250e6  # of networks that are timed in alternation: they are all in memory
SAMPLED = 64  # settings whose FLOPs say what the others take
CHUNK = 40  # settings that are timed in alternation and written together
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
    """The profile kept below `root`, completed with what this space needs and it does not have yet.

    Where the budget does not allow every operator setting, a part that covers all values is measured, the rest is
    interpolated when it is asked for. Where `network_seconds` do not allow `num_networks` whole networks, there are
    fewer, MIN_NETWORKS at least. What a call takes is judged by its FLOPs, so that it is known before. What is
    measured is written at once, so a killed run goes on; a setting that ended the process is a failure of the next run.
    `only_stable` measures again what an earlier run measured at an unstable speed. `on_progress` hears (steps done,
    steps in all, what is done).
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
    """Whether `local_profile` would find all that it needs of this space below `root`, and measure nothing."""
    folder = local_profile_folder(workload, root, device, threads=threads, runtime=runtime)
    if not (folder / "profile.toml").is_file() or _running(folder).is_file():
        return False
    profile = checked_profile(folder, workload, device, threads, runtime)
    return not (
        _missing_settings(space, profile, seconds_budget, device)
        or _missing_networks(space, profile, num_networks, network_seconds, device)
    )


def seconds_of_call(flops: float, device: str) -> float:
    """About what one call takes, with the reference beside it."""
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
    """The first of `count` calibration networks that can be timed in these seconds, MIN_NETWORKS at least."""
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
    """The profile with these settings, written."""
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
    """Holds the key of the setting that is being run for the first time."""
    return folder / "running.txt"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _with_crash(profile: DeviceProfile, folder: Path) -> DeviceProfile:
    """The profile with the setting among its failures in whose first run the process ended twice.

    Once says nothing of the setting: whatever runs when the process is killed would be it.
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
    """Whether the number comes from runs in each of which the reference network changed its speed."""
    return "unstable speed" in row.method


def local_profile_folder(
    workload: Workload, root: Path, device: str = "cpu", *, threads: int = 1, runtime: str = EAGER
) -> Path:
    """Where the local profile of this device, runtime and software is kept; its name identifies it."""
    return profile_folder(root, device, threads, workload, REFERENCE.id, runtime)


def graphs_folder(profile: Path) -> Path:
    """Where the graphs are kept that onnxruntime's numbers are of, for all profiles beside this one."""
    return profile.parent / "graphs"


def checked_profile(
    folder: Path, workload: Workload, device: str, threads: int, runtime: str = EAGER
) -> DeviceProfile:
    """The profile in `folder`. Raises ValueError where it belongs to something else than what is asked for."""
    profile = DeviceProfile.load(folder)
    reason = profile.why_unfit(device, threads, workload, REFERENCE.id, runtime)
    if reason is not None:
        raise ValueError(f"{folder}: {reason}")
    return profile


def empty_profile(workload: Workload, device: str, threads: int, runtime: str = EAGER) -> DeviceProfile:
    """Of this device, with the reference network measured and nothing else."""
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
    """The profile with its calibration networks of the space, or all where it has fewer, written in groups."""
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
    """NUM_NETWORKS at most, and no more than GROUP_PARAMETERS together."""
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
    """Stated at the profile's reference, the timing bounded by `seconds`.

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
    """Random valid architectures by id; fewer than `count` where the space has no more."""
    found: dict[str, ArchSpec] = {}
    draws = valid_architectures(Encoding(space), np.random.default_rng(CALIBRATION_SEED), workload)
    for _, arch in islice(draws, 64 * count):
        found.setdefault(arch.id, arch)
        if len(found) == count:
            break
    return found


def random_models(archs: Sequence[ArchSpec]) -> dict[str, Model]:
    """Models with random weights by architecture id: latency does not depend on what the weights are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {arch.id: Model(arch).eval() for arch in archs}
