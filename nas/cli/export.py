"""`nas export`: writes a study to a file for another program."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from nas.api import Result, read
from nas.errors import UsageError
from nas.files import check_file, replace_file
from searchspace.spec.reading import unknown
from studies.export import WRITERS


def export(options: argparse.Namespace) -> int:
    """Write the file; returns the exit status 0. Raises UsageError for an unknown format or an unusable path."""
    known = (*WRITERS, "optuna")
    if options.format not in known:
        raise UsageError(f"--format: {unknown(options.format, known)}")
    path = Path(options.out)
    check_file(path, options.overwrite, db=options.db)
    result = read(options.study, db=options.db)

    def write(new: Path) -> None:
        if options.format == "optuna":
            _write_optuna(new, result, quiet=options.json)
        else:
            WRITERS[options.format](new, result.study, result.trials)

    replace_file(path, write, options.overwrite, db=options.db)
    size = path.stat().st_size
    if options.json:
        print(json.dumps({"file": str(path), "trials": len(result.trials), "bytes": size}))
        return 0
    print(f"{path}: {len(result.trials):,} trials, {size:,} bytes")
    if options.format == "optuna":
        print(f"open it: optuna-dashboard sqlite:///{path}")
    return 0


def _write_optuna(path: Path, result: Result, quiet: bool) -> None:
    from nas.presentation.optuna_export import write_optuna

    with Progress(console=Console(stderr=True, quiet=quiet)) as progress:
        task = progress.add_task("writing trials", total=len(result.trials))
        write_optuna(
            path,
            result.study,
            result.trials,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
