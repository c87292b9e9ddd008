"""Drives one study whose trials workers evaluate: prepares it, then proposes trials until its budget is spent.

    NAS_DB=URL python -m nas.workers.driver STUDY

A child process of `nas worker`. Exit status: 0 done, 1 failed (the study stores the reason), 2 another process drives
it, 130 interrupted.
"""

from __future__ import annotations

import sys
from contextlib import closing

from nas.api import Hooks, default_db, drive
from nas.engine import INTERRUPTED as BY_SIGNAL
from nas.engine import STOPPED
from nas.execution.lease import LeaseHeld
from nas.setup.runners import Choice
from nas.workers import child
from nas.workers.patience import open_patiently
from studies.control import change
from studies.errors import LeaseLost, StoreUnavailable
from studies.records import Control
from studies.store import Store

DONE, FAILED, HELD, INTERRUPTED = 0, 1, 2, 130


def drive_for_workers(store: Store, name: str) -> int:
    study = store.study(name)
    try:
        result = drive(store, study, None, Choice("workers"), Hooks(), for_workers=True)
    except (LeaseHeld, LeaseLost):
        return HELD
    except StoreUnavailable:
        return INTERRUPTED
    except Exception:
        return FAILED
    if result.reason in (BY_SIGNAL, STOPPED):
        return INTERRUPTED
    change(store, study, control=Control.NONE)  # workers leave it alone until it is resumed
    return DONE


def main() -> int:
    child.end_with_parent()
    with closing(open_patiently(default_db())) as store:
        try:
            return drive_for_workers(store, sys.argv[1])
        except KeyboardInterrupt:
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
