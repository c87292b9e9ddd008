"""`nas worker`: evaluates the waiting trials of studies."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

from nas.api import opened
from nas.cli.arguments import minutes
from nas.errors import UsageError
from nas.execution.worker import EvaluatorSpec
from nas.tasks.metric_names import permit
from nas.workers.worker import Served, work
from studies.patience import Patience, say
from studies.records import Study


def worker(options: argparse.Namespace) -> int:
    idle = minutes(options.idle, "--idle")
    permit(name.strip() for name in options.metric.split(",") if name.strip())
    if options.evaluate:
        _check_judge(options.evaluate)

    def on_study(study: Study) -> None:
        if not options.json:
            print(f"serving {study.name}", flush=True)

    def on_passed(reason: str) -> None:
        print(f"skipped: {reason}", file=sys.stderr, flush=True)

    def on_trial(served: Served) -> None:
        outcome = served.outcome
        if options.json:
            line = {
                "study": served.study,
                "trial": outcome.number,
                "state": outcome.state,
                "lost": served.is_lost,
            }
            print(json.dumps(line), flush=True)
            return
        took = f" in {outcome.seconds:.1f} s" if outcome.seconds is not None else ""
        note = "; another worker had taken it over" if served.is_lost else ""
        error = f": {outcome.error}" if outcome.error else ""
        print(f"trial {outcome.number} {outcome.state}{took}{error}{note}", flush=True)

    with closing(opened(options.db, Patience.endless(say))) as store:
        if options.study:
            store.study(options.study)  # an unknown name is an error, not a reason to wait
        count = work(
            store,
            study=options.study,
            evaluate=options.evaluate,
            workers=options.workers,
            idle_seconds=idle * 60 if idle is not None else None,
            on_study=on_study,
            on_trial=on_trial,
            on_passed=on_passed,
        )
    if not options.json:
        print(f"{count} trials evaluated")
    return 0


def _check_judge(target: str) -> None:
    """Raises UsageError if `target` can't be imported or is no function."""
    try:
        is_function = callable(EvaluatorSpec(target).found())
    except ValueError as error:
        raise UsageError(f"--evaluate {error}") from error
    if not is_function:
        raise UsageError(f"--evaluate {target}: not a function; name one as package.module:function")
