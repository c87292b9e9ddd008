"""`nas train`: the front's networks trained by themselves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nas.cli.display import Display, blocks, table
from nas.errors import UsageError
from nas.provenance import provenance


def train(options: argparse.Namespace) -> int:
    """Exit status 1 where a network failed."""
    try:
        from nas.execution.ray_runner import Cluster
        from nas.final_training import train_front
    except ModuleNotFoundError as error:
        raise UsageError(
            f"nas train needs the package {error.name}: pip install 'efficient-transformer-nas[ray]'"
        ) from None
    with Display(quiet=options.json) as display:
        finals = train_front(
            options.study,
            db=options.db,
            networks=options.networks,
            steps=options.steps,
            cluster=Cluster(options.address, options.workers),
            out=Path(options.out) if options.out else None,
            overwrite=options.overwrite,
            kernels=options.kernels,
            on_step=display.on_step,
        )
    if options.json:
        rows = [
            {
                "trial": f.trial.number,
                "arch_id": f.trial.arch_id,
                "searched": f.trial.values.get("loss"),
                "losses": f.losses,
                "error": f.reason,
            }
            for f in finals
        ]
        print(json.dumps(provenance() | {"study": options.study, "networks": rows, "folder": options.out}))
        return 1 if any(f.reason for f in finals) else 0
    steps = sorted({n for f in finals for n in f.losses})
    header = ("trial", "loss in the search", *(f"after {n} steps" for n in steps), "network")
    lines = [
        (
            str(f.trial.number),
            f"{f.trial.values['loss']:.3f}" if "loss" in f.trial.values else "-",
            *(f"{f.losses[n]:.3f}" if n in f.losses else "failed" if f.reason else "stopped" for n in steps),
            f.reason or blocks(f.trial.arch),
        )
        for f in finals
    ]
    table(header, lines)
    print(f"best: trial {finals[0].trial.number}; what was stopped had fallen behind the others")
    if options.out:
        print(f"try it: python {options.out}/run.py")
    return 1 if any(f.reason for f in finals) else 0
