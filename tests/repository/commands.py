"""The commands of README and guide as a newcomer runs them: in their order, in an empty folder, each on a small budget.

python -m tests.repository.commands [FOLDER]      runs them all and prints how long each took
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.repository.readme import GUIDE, ROOT

TEXT = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", GUIDE))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:nas|make|python) [^`]+)`")
DB = "sqlite:///nas.db"

# What is put for the words that a reader replaces
WORDS = {"PATH": "theirs", "URL": DB, "NAME": "mlp"}

# Options that are added to commands that begin so: the work is the same, and less of it
BUDGETS = {
    "nas search --space": "--recipe small.toml --trials 10",
    "nas search --model": "--recipe untrained.toml --recovery-steps 4 --trials 4 --data words.txt "
    "--max parameters=1e9",
    "nas resume": "--trials +2",
    "nas profile": "--seconds 2 --networks 12 --held-out 12",
    "nas predict evaluate": "--draws 1",
    "nas simulate": "--evaluations 60 --seeds 1",
    "nas train": "--networks 2 --steps 8 --workers 1",
    "nas trust shared --networks": "--networks 5 --steps 10",
    "nas proxies report": "--limit 12 --labels 0 --draws 20 --proxies snip",
    "nas truth build": "--count 2 --workers 1 --recipe small.toml",
    "nas prune": "--data words.txt",
    "nas linearize": "--transfer-steps 4 --recovery-steps 4 --data words.txt",
    "nas worker": "--idle 8s",
}
OWN_METRIC = """
import torch

def bits(outputs, labels):
    return float(torch.nn.functional.cross_entropy(outputs, labels)) / 0.6931
"""
# A study of ten trials keeps no tight limit
LIMITS = {"latency=1.0": "latency=1000", "memory=0.3": "memory=1000"}

# Not run here, and why
LEFT_OUT = {
    "make test": "it runs this test",
    "make bench": "it measures for half an hour what tests/benchmarks measures; `python -m tests.benchmarks` is tested",
    "make gpu": "it needs a CUDA device; tests/repository/test_gpu_command.py runs what it runs",
    "nas search --model model --data pairs.csv --metric spearman --min spearman=0.8": "it needs a trained model of "
    "embeddings; tests/nas/tasks/test_metrics.py runs its parts on an untrained one",
    "python -m searchspace.listing": "it rewrites a file of the repository; a test compares that file with it",
}


def commands(text: str = TEXT) -> list[str]:
    """Lines of blocks without a language, and what is quoted in the text, in the order of the pages, each once."""
    found: list[tuple[int, str]] = []
    for block in FENCED.finditer(text):
        lines = (re.split(r"\s+#", line)[0].strip() for line in block[2].splitlines())
        found += [(block.start(), line) for line in lines if line and not block[1]]
    prose = FENCED.sub(lambda m: " " * len(m[0]), text)
    found += [(quoted.start(), " ".join(quoted[1].split())) for quoted in INLINE.finditer(prose)]
    ordered = [line for _, line in sorted(found, key=lambda each: each[0])]
    return [line for line in dict.fromkeys(ordered) if "COMMAND" not in line]


class Failed(AssertionError):
    """The command, how it ended, and the last that it wrote."""


class Newcomer:
    """A folder with what the pages speak of, and the programs of this environment on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = str(Path(sys.executable).parent)
        own = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
        self.environment = {**os.environ, **own, "NAS_HOME": str(folder / "home")}
        self.environment.pop("NAS_DB", None)
        for name in ("studies", "tests", "Makefile"):  # the commands name files of the repository
            (folder / name).symlink_to(ROOT / name)
        (folder / "novel.txt").write_text("It was the best of times, it was the worst of times. " * 400)
        (folder / "chat.jsonl").write_text(
            "".join(f'{{"prompt": "{n} and {n} are ", "completion": "{2 * n}"}}\n' for n in range(400))
        )
        (folder / "scores.py").write_text(OWN_METRIC)
        (folder / "untrained.toml").write_text("beat_baseline = false\n")
        self.process: subprocess.Popen[str] | None = None
        self._write_recipe()
        self._write_model()

    def _write_recipe(self) -> None:
        recipe = self.run("nas search --space tiny-lm --print-recipe")
        for name, value in {
            "steps": 10,
            "warmup_steps": 2,
            "validation_examples": 64,
            "finalists": 2,
            "lag": 4,
        }.items():
            recipe = re.sub(rf"^{name} = \d+$", f"{name} = {value}", recipe, flags=re.MULTILINE)
        recipe = recipe.replace("beat_baseline = true", "beat_baseline = false")  # ten steps beat nothing
        (self.folder / "small.toml").write_text(recipe)

    def _write_model(self) -> None:
        """A Llama of untrained weights over words, as the library that published models come with saves it."""
        from tests.nas.importing.test_families import GROUPED, saved
        from tests.nas.importing.test_search import text, tokenizer

        saved("LlamaForCausalLM", GROUPED, self.folder / "theirs")
        tokenizer().save(str(self.folder / "theirs" / "tokenizer.json"))
        text(self.folder / "words.txt")

    def do(self, command: str) -> None:
        """Run one command of the pages in the form that its budget gives it. Raises Failed."""
        if command in LEFT_OUT:
            return
        for start, act in self._forms().items():
            if command.startswith(start):
                act(command)
                return
        self.run(budgeted(command))

    def _forms(self) -> dict[str, Callable[[str], None]]:
        """Commands that take another shape here."""
        return {
            "make search": self._make_search,
            "nas serve": self._serve,
            "nas search --space tiny-lm --study wide": self._wait_for_workers,
            "nas worker": self._work,
            "nas search --space tiny-lm --study there": self._target,
            "nas profile --space tiny-lm --samples": self._adapt,
            "nas trust": self._judge,
            "sqlite3": self._back_up,
        }

    def _make_search(self, command: str) -> None:
        """The commands that make would run, which make runs in the folder of the repository."""
        told = subprocess.run(["make", "-n", "search"], cwd=ROOT, capture_output=True, text=True, check=True)
        (self.folder / "out").mkdir()
        for line in re.findall(r"\.venv/bin/((?:nas|python) [^;|\n]+)", told.stdout):
            if not line.startswith(("nas resume", "python -m pip")):
                self.run(budgeted(line.strip()))

    def _serve(self, command: str) -> None:
        """On a free port, until the page and the list of studies have answered."""
        line = [*shlex.split(budgeted(command)), "--port", "0"]
        with subprocess.Popen(
            line, cwd=self.folder, env=self.environment, stderr=subprocess.PIPE, text=True
        ) as server:
            assert server.stderr is not None
            said = server.stderr.readline()
            try:
                address, _, token = said.rsplit(" at ", 1)[1].strip().partition("/?token=")
                for path in ("/", "/api/v1/studies", "/api/v1/openapi.json"):
                    asked = urllib.request.Request(
                        address + path, headers={"Authorization": f"Bearer {token}"}
                    )
                    with urllib.request.urlopen(asked, timeout=60) as answer:
                        assert answer.status == 200
            except (IndexError, OSError) as error:
                raise Failed(f"{command}: {error}: {said}") from error
            finally:
                server.send_signal(signal.SIGINT)

    def _wait_for_workers(self, command: str) -> None:
        """It ends when the worker of the next command has evaluated its trials."""
        self.process = subprocess.Popen(
            shlex.split(budgeted(command)),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _work(self, command: str) -> None:
        while self.process is not None and self.process.poll() is None:
            self.run(budgeted(command))
        if self.process is not None:
            said, _ = self.process.communicate()
            if self.process.returncode:
                raise Failed(f"the search that waited for workers: {said[-2000:]}")

    def _profile(self) -> Path:
        found = sorted(path.parent for path in (self.folder / "home" / "profiles").glob("*/profile.toml"))
        return found[0]

    def _target(self, command: str) -> None:
        self.run(budgeted(command).replace("PROFILE", str(self._profile())))

    def _adapt(self, command: str) -> None:
        """This device has been measured in full, so it is a new one that knows that profile as another's."""
        home = self.folder / "other" / "profiles" / "another-device"
        shutil.copytree(self._profile(), home)
        kept = self.environment["NAS_HOME"]
        self.environment["NAS_HOME"] = str(home.parents[1])
        self.run(budgeted(command))
        self.environment["NAS_HOME"] = kept

    def _judge(self, command: str) -> None:
        """Its exit status is its verdict, and weights of ten steps deserve no trust."""
        said = self.run(budgeted(command), statuses=(0, 1))
        if "inherited loss ranks networks" not in said:
            raise Failed(f"{command}: {said}")

    def _back_up(self, command: str) -> None:
        """By Python where the program sqlite3 is not installed, which calls the same function."""
        if shutil.which("sqlite3"):
            self.run(command)
            return
        with (
            closing(sqlite3.connect(self.folder / "nas.db")) as source,
            closing(sqlite3.connect(self.folder / "copy.db")) as copy,
        ):
            source.backup(copy)

    def run(self, command: str, statuses: Sequence[int] = (0,)) -> str:
        """What it printed. Raises Failed where its exit status is another one."""
        done = subprocess.run(
            shlex.split(command), cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode not in statuses:
            raise Failed(f"{command}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout


def budgeted(command: str) -> str:
    for word, value in {**WORDS, **LIMITS}.items():
        command = re.sub(rf"(?<![\w.]){re.escape(word)}(?!\w)", value, command)
    added = [options for start, options in BUDGETS.items() if command.startswith(start)]
    return " ".join([command, *added])


def walk(folder: Path) -> Iterator[tuple[str, float]]:
    """Each command and the seconds that it took. Raises Failed at the first that fails."""
    newcomer = Newcomer(folder)
    for command in commands():
        begun = time.perf_counter()
        newcomer.do(command)
        yield command, time.perf_counter() - begun


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        for line, seconds in walk(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)):
            left_out = f"left out: {LEFT_OUT[line]}" if line in LEFT_OUT else f"{seconds:.1f} s"
            print(f"{left_out:>10}  {line}", flush=True)
