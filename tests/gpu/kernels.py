"""The checks of the kernels on the device, in several processes: most of the time goes into compiling them."""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

from tests.searchspace.kernels.harness import checks
from tests.searchspace.kernels.worker import worker

ORDER = {"gpu": 0, "quick": 1, "slow": 2}
SECONDS = 120.0


def kernels(device: str, out: Path, deadline: float) -> dict[str, Any]:
    """Failures by check, those of the real sizes first. A CPU dry run has the quick ones only."""
    wanted = [c for c in checks().values() if device == "cuda" or c.size == "quick"]
    waiting: queue.Queue[str] = queue.Queue()
    for check in sorted(wanted, key=lambda c: ORDER[c.size]):
        waiting.put(check.name)
    failures: dict[str, str] = {}
    passed: list[str] = []
    stop = min(deadline, time.monotonic() + SECONDS)

    def work() -> None:
        while time.monotonic() < stop and not waiting.empty():
            with worker("tests.searchspace.kernels.harness", device) as ask:
                while time.monotonic() < stop:
                    try:
                        name = waiting.get_nowait()
                    except queue.Empty:
                        return
                    reply = ask(f"check {device} {name}")
                    if reply is not None:
                        failures[name] = reply["error"]
                        break  # a device error stays with the process: the next check gets a new one
                    passed.append(name)

    threads = [threading.Thread(target=work) for _ in range(max(1, min(8, (os.cpu_count() or 1) // 2)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"cases": len(wanted), "reached": len(passed) + len(failures), "failures": failures}
