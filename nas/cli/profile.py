"""`nas profile`: profiles this device, or adapts another device's profile to it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from nas.cli.display import Display
from nas.cli.options import given
from nas.errors import UsageError
from nas.home import home
from nas.measuring import OnProgress, measure
from nas.provenance import provenance
from nas.request.schema import AUTO, EvaluateRequest, ProfileRequest, TimingRequest
from nas.setup.plan import check_kernels
from nas.setup.preparation import Step, measure_profile
from predictors.runtimes import default_runtime, why_not
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

if TYPE_CHECKING:
    from predictors.device import DeviceProfile
    from predictors.evaluate import Evaluation


def profile(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 if the clock speed was too unstable for a statement about the error."""
    request = ProfileRequest.of(given(ProfileRequest, options))
    space, workload = asked(request)
    check_kernels(request.kernels, request.device)
    from searchspace.kernels import dispatch

    with dispatch.use(request.kernels):
        if request.samples is None:
            made = full_profile(request, space, workload, request.seconds, options.json)
        else:
            made = _adapted(request, request.samples, space, workload, options.json)
        return report(request, space, made, options.json)


def asked(request: TimingRequest) -> tuple[SpaceSpec, Workload]:
    """The requested space and workload.

    Raises UsageError if torch finds no CUDA device, or if the sequence or context length does not fit space and phase.
    """
    import torch

    from nas.setup.plan import named_space

    space = named_space(request.space)
    if request.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; use cpu")
    seq_len = request.seq_len if request.seq_len is not None else int(space.stem.get("max_len") or 64)
    longest = space.stem.get("max_len")
    if longest is not None and seq_len > longest and request.phase != "decode":
        raise UsageError(f"--seq-len {seq_len}: networks of space {space.name} read at most {longest} tokens")
    context_len = request.context_len
    if context_len and request.phase != "decode":
        raise UsageError(f"--context-len {context_len}: leave it out, or add --phase decode")
    return space, Workload(request.phase, request.batch_size, seq_len, context_len, request.dtype)


def runtime_of(request: TimingRequest, space: SpaceSpec, workload: Workload) -> str:
    """The requested runtime, or the default for the space. Raises UsageError if it can't time this workload here."""
    if request.runtime == AUTO:
        return default_runtime(space.task, request.device, workload)
    reason = why_not(request.runtime, request.device, workload)
    if reason is not None:
        raise UsageError(f"--runtime {request.runtime}: {reason}")
    return request.runtime


def full_profile(
    request: TimingRequest, space: SpaceSpec, workload: Workload, seconds: float, quiet: bool
) -> DeviceProfile:
    from predictors.device import DeviceProfile
    from predictors.profiling import local_profile_folder

    runtime = runtime_of(request, space, workload)
    with Display(quiet=quiet) as display:
        display.start()
        measure_profile(
            space,
            workload,
            request.device,
            display.on_step,
            threads=request.threads,
            seconds_budget=seconds,
            num_networks=request.networks,
            network_seconds=math.inf,  # time all requested networks
            only_stable=True,
            runtime=runtime,
        )
    root = home() / "profiles"
    folder = local_profile_folder(workload, root, request.device, threads=request.threads, runtime=runtime)
    return DeviceProfile.load(folder)


def _adapted(
    request: ProfileRequest, samples: int, space: SpaceSpec, workload: Workload, quiet: bool
) -> DeviceProfile:
    with Display(quiet=quiet) as display:
        display.start()
        runtime = runtime_of(request, space, workload)
        work = partial(_adapt, space, workload, samples, request.device, request.threads, runtime)
        return measure(work, request.device, partial(_show, display, "timing networks"), max_crashes=1)


def _adapt(
    space: SpaceSpec,
    workload: Workload,
    samples: int,
    device: str,
    threads: int,
    runtime: str,
    on_progress: OnProgress,
) -> DeviceProfile:
    from predictors.device import SHIPPED, known_profiles
    from predictors.onboarding import adapted_profile

    root = home() / "profiles"
    known = known_profiles([SHIPPED, root])
    return adapted_profile(
        space,
        workload,
        root,
        known,
        samples,
        device,
        threads=threads,
        runtime=runtime,
        on_progress=on_progress,
    )


def _show(display: Display, name: str, done: int, total: int, text: str) -> None:
    display.on_step(Step(name, done, total, text))


def _evaluate(
    space: SpaceSpec, made: DeviceProfile, held_out: int, device: str, seed: int, on_progress: OnProgress
) -> Evaluation:
    from predictors.evaluate import evaluate
    from predictors.profiling import graphs_folder

    def on_round(done: int, total: int) -> None:
        on_progress(done, total, "")

    graphs = graphs_folder(home() / "profiles" / "this")
    return evaluate(space, made, held_out, device, seed=seed, graphs=graphs, on_round=on_round)


def report(
    request: ProfileRequest | EvaluateRequest,
    space: SpaceSpec,
    made: DeviceProfile,
    as_json: bool,
    seed: int = 0,
) -> int:
    """Print the profile's prediction error on held-out networks; returns the exit status.

    It prints none and returns 1 if the clock speed changed during measurements.
    """
    from predictors.profiling import is_unstable

    rows = [*made.operators, *(row.measurement for row in made.networks)]
    if made.adapted_from:
        rows = [row.measurement for row in made.networks]
    drifted = sum(map(is_unstable, rows))
    if drifted:
        print(
            f"nas: {drifted} of {len(rows)} measurements were taken while the clock speed of this device changed, so "
            "no prediction error is stated. Run the command again on an idle machine: only these are measured again",
            file=sys.stderr,
        )
        return 1
    with Display(quiet=as_json) as display:
        display.start()
        work = partial(_evaluate, space, made, request.held_out, request.device, seed)
        found = measure(work, request.device, partial(_show, display, "held-out networks"), max_crashes=1)
    if as_json:
        numbers = [asdict(row) for row in found.rows]
        about = {
            "space": found.space,
            "device": found.device,
            "runtime": found.runtime,
            "runtime_software": made.software,
            "workload": found.workload.to_json(),
            "adapted_from": made.adapted_from,
            "fitted": found.num_fitted,
            "inside": found.inside,
        }
        origin = provenance(request.device, request.threads)
        print(json.dumps({**origin, **about, "failures": dict(made.failures), "predictors": numbers}))
        return 0
    if made.adapted_from:
        print(f"adapted from {made.adapted_from}")
    for key, reason in made.failures.items():
        print(f"does not run: {key}: {reason}")
    print(found.table())
    return 0
