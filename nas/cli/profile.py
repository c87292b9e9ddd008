"""`nas profile`: measure this device, or adapt what is known of another."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.display import Display
from nas.errors import UsageError
from nas.home import home
from nas.provenance import provenance
from nas.setup.preparation import Step
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

if TYPE_CHECKING:
    from predictors.device import DeviceProfile

MAX_CRASHES = 20


def profile(options: argparse.Namespace) -> int:
    """Exit status 1 where the clock was too unstable for the numbers to mean anything."""
    space, workload = asked(options)
    if options.samples is None:
        made = full_profile(options, space, workload, options.seconds, options.networks)
    else:
        made = _adapted(options, space, workload)
    return report(options, space, made)


def asked(options: argparse.Namespace) -> tuple[SpaceSpec, Workload]:
    """The space, and the workload on it. UsageError for a device that is not here, or too long a text."""
    import torch

    from searchspace.load import load_space

    space = load_space(options.space)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; cpu is there")
    seq_len = options.seq_len if options.seq_len is not None else int(space.stem.get("max_len") or 64)
    longest = space.stem.get("max_len")
    if longest is not None and seq_len > longest and options.phase != "decode":
        raise UsageError(f"--seq-len {seq_len}: networks of space {space.name} read at most {longest} tokens")
    context_len = options.context_len
    if context_len and options.phase != "decode":
        raise UsageError(f"--context-len {context_len}: give 0, or more with --phase decode")
    return space, Workload(options.phase, options.batch_size, seq_len, context_len, options.dtype)


def full_profile(
    options: argparse.Namespace, space: SpaceSpec, workload: Workload, seconds: float, networks: int
) -> DeviceProfile:
    """Measured in a process of its own, started again after a crash, which costs the setting that was being run."""
    from predictors.device import DeviceProfile
    from predictors.profiling import local_profile_folder

    spawn = multiprocessing.get_context("spawn")
    root = home() / "profiles"
    with Display(quiet=options.json) as display:
        display.start()
        for _ in range(MAX_CRASHES):
            receiver, sender = spawn.Pipe(duplex=False)
            arguments = (sender, space, workload, root, options.device, options.threads, seconds, networks)
            worker = spawn.Process(target=_measure, args=arguments, daemon=True)
            worker.start()
            sender.close()
            refused = _follow(receiver, display)
            worker.join()
            if refused:
                raise UsageError(refused)
            if worker.exitcode == 0:
                folder = local_profile_folder(workload, root, options.device, threads=options.threads)
                return DeviceProfile.load(folder)
            display.console.print(
                f"the measuring process ended with {worker.exitcode}: going on without the last"
            )
    raise UsageError(f"--space {space.name}: measuring crashed {MAX_CRASHES} times on {options.device}")


def _follow(receiver: Connection, display: Display) -> str:
    """Show progress until the other process is done; returns why it refused, if it did."""
    refused = ""
    while True:
        try:
            message = receiver.recv()
        except EOFError:
            return refused
        if isinstance(message, str):
            refused = message
        else:
            done, total, text = message
            display.on_step(Step(text, done, total))


def _measure(
    sender: Connection,
    space: SpaceSpec,
    workload: Workload,
    root: Path,
    device: str,
    threads: int,
    seconds: float,
    networks: int,
) -> None:
    from predictors.profiling import local_profile

    try:
        local_profile(
            space,
            workload,
            root,
            device,
            threads=threads,
            seconds_budget=seconds,
            num_networks=networks,
            only_stable=True,
            on_progress=lambda done, of, text: sender.send((done, of, text)),
        )
    except ValueError as error:
        sender.send(str(error))


def _adapted(options: argparse.Namespace, space: SpaceSpec, workload: Workload) -> DeviceProfile:
    from predictors.device import SHIPPED, known_profiles
    from predictors.onboarding import adapted_profile

    root = home() / "profiles"
    with Display(quiet=options.json) as display:
        display.start()
        return adapted_profile(
            space,
            workload,
            root,
            known_profiles([SHIPPED, root]),
            options.samples,
            options.device,
            threads=options.threads,
            on_progress=lambda done, of, text: display.on_step(Step(text, done, of)),
        )


def report(options: argparse.Namespace, space: SpaceSpec, made: DeviceProfile) -> int:
    """The profile's error on networks it was not fitted to, unless the clock forbids a statement."""
    from predictors.evaluate import evaluate
    from predictors.profiling import is_unstable

    rows = [*made.operators, *(row.measurement for row in made.networks)]
    if made.adapted_from:
        rows = [row.measurement for row in made.networks]
    drifted = sum(map(is_unstable, rows))
    if drifted:
        print(
            f"nas: {drifted} of {len(rows)} numbers were taken while the speed of this device changed; no error is "
            "stated. Run the command again when it is quiet: only these are measured again",
            file=sys.stderr,
        )
        return 1
    with Display(quiet=options.json) as display:
        display.start()
        found = evaluate(
            space,
            made,
            options.held_out,
            options.device,
            seed=getattr(options, "seed", 0),
            on_round=lambda done, of: display.on_step(Step("held-out networks", done, of)),
        )
    if options.json:
        numbers = [asdict(row) for row in found.rows]
        about = {
            "space": found.space,
            "device": found.device,
            "workload": found.workload.to_json(),
            "adapted_from": made.adapted_from,
            "fitted": found.num_fitted,
            "inside": found.inside,
        }
        origin = provenance(options.device, options.threads)
        print(json.dumps({**origin, **about, "failures": dict(made.failures), "predictors": numbers}))
        return 0
    if made.adapted_from:
        print(f"adapted from {made.adapted_from}")
    for key, reason in made.failures.items():
        print(f"does not run: {key}: {reason}")
    print(found.table())
    return 0
