"""What the processes of a machine share."""

from __future__ import annotations

import select
import subprocess
import sys

from nas.machine import measuring

HOLDER = """
import sys, time
from nas.machine import measuring
print("asks", flush=True)
with measuring(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def start() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "cpu"], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert said(process) == "asks"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_device_is_measured_by_one_process_at_a_time_and_is_free_when_that_dies() -> None:
    holder = start()
    assert said(holder) == "held"
    with measuring("cuda"):
        pass  # another device is free
    waiter = start()
    assert waiter.stdout is not None
    assert select.select([waiter.stdout], [], [], 0.5) == ([], [], [])
    holder.kill()
    holder.communicate()
    assert said(waiter) == "held"
    waiter.kill()
    waiter.communicate()
    with measuring("cpu"):
        pass
