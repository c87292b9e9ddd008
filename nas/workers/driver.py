"""Drives one study that workers evaluate: prepares it, then proposes trials until its budget is spent.

    NAS_DB=URL python -m nas.workers.driver STUDY

Run by `nas worker`, tethered to it. Exit status: 0 done, 1 failed (the study says why), 2 another process drives it,
130 interrupted.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing
from typing import Any

from nas.api import Hooks, default_db, resume
from nas.errors import NasError, StoreError, UsageError
from nas.execution.lease import Lease
from nas.setup.plan import recipe_of
from nas.setup.preparation import Step, prepare
from nas.workers import tether
from searchspace.spec.space import SpaceSpec
from studies.control import change
from studies.errors import LeaseLost, StoreUnreachable
from studies.records import Study
from studies.store import Store

DONE, FAILED, HELD, INTERRUPTED = 0, 1, 2, 130
REPORT_SECONDS = 0.5


class _Progress:
    """Writes the progress of preparations to the database, a few times a second at most."""

    def __init__(self, store: Store, study: Study) -> None:
        self._store, self._study = store, study
        self._last = 0.0

    def __call__(self, step: Step) -> None:
        if step.done < step.total and time.monotonic() - self._last < REPORT_SECONDS:
            return
        self._last = time.monotonic()
        change(self._store, self._study, progress=vars(step))


def drive(store: Store, name: str) -> int:
    study = store.study(name)
    progress = _Progress(store, study)
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(Lease(store, study))
            except UsageError:
                return HELD
            change(store, study, problem="")
            if study.quality != "user":
                recipe, space = recipe_of(study), SpaceSpec.from_json(study.space)
                prepare(store, study, space, recipe, study.settings["device"], progress)
                change(store, study, progress={})
        result = resume(name, db=default_db(), runner="workers", hooks=Hooks(on_step=progress))
    except LeaseLost:
        return HELD
    except StoreUnreachable:
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, UsageError) and store.lease_owner(study) is not None:
            return HELD
        kind = "" if isinstance(error, NasError | StoreError) else f"{type(error).__name__}: "
        _release(store, study, state="failed", problem=f"{kind}{error}")
        return FAILED
    if result.reason == "interrupted":
        return INTERRUPTED
    _release(store, study)
    return DONE


def _release(store: Store, study: Study, **columns: Any) -> None:
    """Workers have no more to do with the study until somebody wants it to go on."""
    change(store, study, control="", progress={}, **columns)


def main() -> int:
    tether.hold()
    with closing(Store(default_db())) as store:
        try:
            return drive(store, sys.argv[1])
        except KeyboardInterrupt:
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
