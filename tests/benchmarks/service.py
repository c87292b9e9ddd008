"""The service: how fast a large study opens and pans in a browser, and how long reads wait under load.

The load is open loop, so that a slow answer does not delay the next question: each read is due at a fixed time,
regardless of earlier ones, and its waiting time counts from then. Everything runs on this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

from nas.request.recipe import load_recipe
from nas.service.views import Position
from nas.setup.plan import plan
from searchspace.load import load_space
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies import tokens
from studies.records import Objective, Study, Trial
from studies.store import Store
from tests.benchmarks.rows import Row

NUM_TRIALS = 20_000
NUM_OPENINGS = 5
NUM_MOVES = 120
NUM_CONNECTIONS, READS_PER_SECOND, NUM_STREAMS = 200, 50, 20
LOAD_SECONDS = float(os.environ.get("NAS_LOAD_SECONDS", "30"))
GOALS = (
    Objective("loss", source="user"),
    Objective("latency", source="user"),
    Objective("memory", source="user"),
)

IS_SHOWN = """
() => document.querySelector('.arch') && document.querySelector('.chart canvas') && performance.now()
"""

# Time of the handlers of each pointer move, and of the frames that they request
COUNT_WORK = """
window.work = [];
const frame = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (callback) => frame((at) => {
  const start = performance.now();
  callback(at);
  if (work.length) work[work.length - 1] += performance.now() - start;
});
let began = 0;
addEventListener("pointermove", () => { began = performance.now(); work.push(0); }, true);
addEventListener("pointermove", () => { work[work.length - 1] += performance.now() - began; });
"""


def sleeping(arch: ArchSpec) -> dict[str, float]:
    """A judge that takes 0.1 s and returns values derived from the architecture id."""
    time.sleep(0.1)
    digits = int(arch.id, 16)
    return {o.name: 1.0 + (digits >> (16 * i)) % 1000 / 1000 for i, o in enumerate(GOALS)}


def run() -> list[Row]:
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/nas.db"
        _large_study(url)
        with _served(url) as (address, _):
            rows = _browse(address)
    with TemporaryDirectory() as folder:
        return rows + asyncio.run(_load(f"sqlite:///{folder}/nas.db"))


def _planned(name: str, count: int) -> Study:
    recipe = load_recipe("tiny-lm").changed(trials=count, searcher="random")
    return plan(load_space("tiny-lm"), recipe, GOALS, name=name, has_judge=True)


def _large_study(url: str) -> None:
    """Values as in a real search: a cloud above a front on which loss falls as the other two objectives rise."""
    rng = np.random.default_rng(0)
    encoding = Encoding(load_space("tiny-lm"))
    archs = [encoding.decode(tuple(g)).to_json() for g in encoding.random(50, rng).tolist()]
    size = rng.uniform(0.05, 1.0, NUM_TRIALS)
    loss = 2 + 0.3 / size**0.5 + rng.gamma(2, 0.1, NUM_TRIALS)
    latency, memory = size * rng.uniform(1, 1.5, NUM_TRIALS), size * rng.uniform(0.8, 1.6, NUM_TRIALS)
    with closing(Store(url)) as store:
        study = store.create_study(replace(_planned("large", NUM_TRIALS), state="finished"))
        for start in range(0, NUM_TRIALS, 2000):
            store.add_trials(
                study,
                [
                    Trial(
                        n,
                        archs[n % len(archs)],
                        f"{n:016x}",
                        "complete",
                        {"loss": loss[n], "latency": latency[n], "memory": memory[n]},
                    )
                    for n in range(start, start + 2000)
                ],
            )


@contextmanager
def _served(url: str, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "nas.cli.main", "serve", "--db", url, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        yield process.stderr.readline().rsplit(" at ", 1)[1].strip(), process
        process.send_signal(signal.SIGINT)


def _browse(address: str) -> list[Row]:
    from playwright.sync_api import sync_playwright

    opened: list[float] = []
    work: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for _ in range(NUM_OPENINGS):
            page = browser.new_page(viewport={"width": 1440, "height": 900}, bypass_csp=True)
            page.add_init_script(COUNT_WORK)
            page.goto(f"{address}#/studies/large", wait_until="commit")
            opened.append(page.wait_for_function(IS_SHOWN, polling="raf").json_value() / 1e3)
            box = page.locator(".chart.tall").bounding_box()
            assert box is not None
            page.wait_for_timeout(1500)
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.mouse.move(x, y)
            for _ in range(5):  # a fully zoomed-out plot cannot be panned
                page.mouse.wheel(0, -240)
            page.wait_for_timeout(500)
            page.evaluate("work.length = 0")
            page.mouse.down()
            for i in range(NUM_MOVES):
                page.mouse.move(x + 150 * np.sin(i / 8), y + 80 * np.cos(i / 8))
            page.mouse.up()
            page.wait_for_timeout(100)
            work += page.evaluate("work")
            page.close()
        browser.close()
    p95 = float(np.percentile(work, 95))
    return [
        Row("20,000 trials: page opens", float(np.median(opened)), min(opened), max(opened), "s", "< 1.5"),
        Row("20,000 trials: work per move, p95", p95, min(work), max(work), "ms", "<= 33"),
    ]


def _request(path: str, token: str, last: str = "") -> bytes:
    head = f"GET /api/v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    return (head + (f"Last-Event-ID: {last}\r\n" if last else "") + "\r\n").encode()


class _Reader:
    """An open connection that sends a request and waits for the answer."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self._pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> int:
        """The status of the answer."""
        if self._pipe is None:
            self._pipe = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._pipe
        try:
            writer.write(_request(path, self._token))
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
            await reader.readexactly(int(length.split(":")[1]))
            return int(head.split()[1])
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            raise

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe[1].close()
            self._pipe = None


async def _follow(port: int, token: str, got: list[int], ended: asyncio.Event) -> None:
    """A stream that goes on where it was after each break."""
    last = str(Position())
    while not ended.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_request("studies/load/events", token, last))
            while not ended.is_set() and (line := await reader.readline()):
                if line.startswith(b"id: "):
                    last = line[4:].decode().strip()
                    data = json.loads((await reader.readline())[6:])
                    got += [t["number"] for t in data["trials"]]
            writer.close()
        except OSError:
            await asyncio.sleep(0.2)


async def _load(url: str) -> list[Row]:
    with closing(Store(url)) as store:
        study = replace(_planned("load", 1_000_000), state="queued", control="run")
        study = store.create_study(study)
        token = tokens.create(store, "load", "read")
        worker = [sys.executable, "-m", "nas.cli.main", "worker", "--db", url, "--workers", "2"]
        command = [*worker, "--evaluate", "tests.benchmarks.service:sleeping"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while not store.trials(study, states=["complete"]):
                await asyncio.sleep(0.2)
            waits, errors, got, sent = await _under_load(url, token)
            process.send_signal(signal.SIGINT)
        finished = {t.number for t in store.results(study) if t.is_finished}
    missed = [len(set(range(max(numbers) + 1)) & finished - set(numbers)) for numbers in got]
    twice = [len(numbers) - len(set(numbers)) for numbers in got]
    low, p99, high = np.percentile(waits, (50, 99, 100))
    title = f"{sent} reads at {READS_PER_SECOND} per second"
    return [
        Row(f"{title}: p99 (range: median to worst)", p99, low, high, "ms", "< 250"),
        Row(f"{title}: errors while the server was up", errors, errors, errors, "reads", "0"),
        Row(
            "trials missed or sent twice by streams", sum(missed) + sum(twice), 0, max(missed), "trials", "0"
        ),
        Row(
            "trials on each stream",
            float(np.median([len(g) for g in got])),
            min(map(len, got)),
            max(map(len, got)),
            "trials",
        ),
    ]


async def _under_load(url: str, token: str) -> tuple[list[float], int, list[list[int]], int]:
    """Half of the time, then the server is killed and another one started, then the other half."""
    paths = [
        "studies",
        "studies/load",
        "studies/load/trials?limit=50",
        "studies/load/front",
        "operators",
        "about",
    ]
    waits: list[float] = []
    errors = 0
    got: list[list[int]] = [[] for _ in range(NUM_STREAMS)]
    ended = asyncio.Event()
    streams: list[asyncio.Task[None]] = []
    port = 0

    async def read(reader: _Reader, path: str, at: float) -> None:
        nonlocal errors
        try:
            status = await reader.get(path)
        except OSError:
            status = 0
        waits.append(1e3 * (time.perf_counter() - at))
        errors += status != 200

    sent = 0
    for half in range(2):
        with _served(url, port) as (address, server):
            port = int(address.partition("/?")[0].rsplit(":", 1)[1])
            readers = [_Reader(port, token) for _ in range(NUM_CONNECTIONS)]
            if not streams:
                streams = [asyncio.create_task(_follow(port, token, numbers, ended)) for numbers in got]
            for reader in readers:
                await reader.get("about")
            begin, tasks = time.perf_counter(), []
            for i in range(int(LOAD_SECONDS / 2 * READS_PER_SECOND)):
                at = begin + i / READS_PER_SECOND
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                tasks.append(asyncio.create_task(read(readers[i % len(readers)], paths[i % len(paths)], at)))
            await asyncio.gather(*tasks)
            sent += len(tasks)
            if half == 0:
                server.kill()
            else:
                await asyncio.sleep(2)
                ended.set()
                for task in streams:
                    task.cancel()
            for reader in readers:
                reader.close()
    await asyncio.gather(*streams, return_exceptions=True)
    return waits, errors, got, sent


if __name__ == "__main__":
    from tests.benchmarks.rows import show

    show(run())
