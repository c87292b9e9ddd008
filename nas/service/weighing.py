"""Child process, since it computes for seconds: the importance of a study's decisions for its objectives.

    NAS_DB=URL python -m nas.service.weighing STUDY

Prints a list of {objective, num_trials, explained, decisions}, or {"error": ...} if it can't be computed.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Any

from nas.api import default_db
from nas.errors import StoreError
from nas.workers import child
from studies.importance import importance
from studies.records import TrialState
from studies.store import Store


def weigh(study: str) -> list[dict[str, Any]]:
    with closing(Store(default_db())) as store:
        found = store.study(study)
        return [vars(part) for part in importance(found, store.trials(found, states=[TrialState.COMPLETE]))]


def main() -> None:
    child.end_with_parent()
    try:
        answer: Any = weigh(sys.argv[1])
    except (ValueError, StoreError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
