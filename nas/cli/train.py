"""`nas train`: trains networks of the front, each alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nas.cli.display import Display, blocks, table
from nas.cli.options import given
from nas.errors import UsageError
from nas.provenance import provenance
from nas.request.schema import TrainRequest


def train(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 if a network failed. Raises UsageError if a needed package is not installed."""
    request = TrainRequest.of(given(TrainRequest, options) | {"study": options.study})
    try:
        from nas.execution.ray_runner import Cluster
        from nas.final_training import train_front
    except ModuleNotFoundError as error:
        raise UsageError(
            f"nas train needs the package {error.name}: pip install 'efficient-transformer-nas[ray]'"
        ) from None
    with Display(quiet=options.json) as display:
        finals = train_front(
            request.study,
            db=request.db,
            networks=request.networks,
            steps=request.steps,
            cluster=Cluster(request.address, request.workers),
            out=Path(request.out) if request.out else None,
            overwrite=request.overwrite,
            kernels=request.kernels,
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
        print(json.dumps(provenance() | {"study": options.study, "networks": rows, "folder": request.out}))
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
    print(f"best: trial {finals[0].trial.number}; networks that fell behind were stopped early")
    if request.out:
        print(f"try it: python {request.out}/run.py")
    return 1 if any(f.reason for f in finals) else 0
