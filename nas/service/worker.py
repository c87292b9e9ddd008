"""The worker process that `nas serve --workers` starts, and that ends with the server.

NAS_DB=URL python -m nas.service.worker COUNT
"""

from __future__ import annotations

import sys
from contextlib import closing

from nas.api import default_db
from nas.workers import child
from nas.workers.patience import open_patiently
from nas.workers.worker import work


def _say(reason: str) -> None:
    sys.stderr.write(f"skipped: {reason}\n")


def main() -> None:
    child.end_with_parent()
    with closing(open_patiently(default_db())) as store:
        try:
            work(store, workers=int(sys.argv[1]), stays=True, on_passed=_say)
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
