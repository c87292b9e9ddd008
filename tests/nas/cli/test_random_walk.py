"""A bounded random walk through the commands: good and bad values, files cut short, folders shared with the user's own.

Whatever is asked, a command ends with a status that says what happened, without a traceback; no file that `nas` did not
write is changed or gone; and the database opens afterwards.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from nas.cli.main import main
from studies.store import Store
from tests.nas.simulation import tables

STEPS = 300
SPACE = """
name = "mine"
task = "causal_lm"
data = "text.txt"
d_model = [16, 32]
final_norm = "rmsnorm"
stem = { op = "token_embedding", vocab_size = 256, max_len = 16 }
head = { op = "lm_head", vocab_size = 256 }

[[stages]]
num_blocks = 2
depth = [1, 2]

[blocks]
mixer = ["softmax_attention", "pooling"]
ffn = [{ op = "mlp", d_ff = [16, 32] }, "none"]
norm = ["rmsnorm"]
placement = ["pre"]
"""
RECIPE = """
quality = "supernet"
validation_examples = 8
batch_size = 8
finalists = 0
[training]
steps = 2
warmup_steps = 1
batch_size = 2
num_random = 1
"""

DBS = [
    "",
    "sqlite:///nas.db",
    "sqlite:///missing.db",
    "sqlite:///text.txt",
    "nas.db",
    "mysql://x",
    "sqlite://",
]
SPACES = ["mine.toml", "mine.toml", "mine.toml", "broken.toml", "text.txt", "nope", "", "folder"]
STUDIES = [*["one"] * 12, "two", "x", "nope", "", "a/b", "n" * 300, "two words", "--", "\udce9"]
OUTS = [
    "out1",
    "out2",
    "made.csv",
    "made.html",
    "folder",
    "text.txt",
    "nas.db",
    ".",
    "..",
    "/dev/null",
    "/dev/full",
    "no/such/place",
    "",
    "n" * 300,
]
NUMBERS = ["1", "2", "3", "0", "-1", "2.5", "nan", "inf", "1e3", "two", "", str(2**64), "9" * 5000]
BOUNDS = [
    "parameters=1e5",
    "flops=1e9",
    "parameters=-1",
    "flops=nan",
    "latncy=1",
    "flops",
    "=",
    "flops=",
    "loss=9",
]
TIMES = ["5s", "1m", "1d", "0s", "-1h", "soon", "", "9" * 400 + "h"]
GOALS = [
    "parameters,flops",
    "loss,parameters",
    "parameters",
    "los",
    "",
    ",",
    "loss,loss",
    "loss@",
    "flops@tpu:x",
]

# What a command may be given: an option with its values, or values alone for what stands without one.
SEARCH: Sequence[tuple[str, Sequence[str | None]]] = [
    ("--space", SPACES),
    ("--study", STUDIES),
    ("--trials", NUMBERS),
    ("--objectives", GOALS),
    ("--max", BOUNDS),
    ("--min", ["parameters=100", "flops=nan", "latncy=1", "flops", "=", "accuracy=2"]),
    ("--seed", NUMBERS),
    ("--searcher", ["random", "evolution", "nope", ""]),
    ("--quality", ["supernet", "proxy", "train", "nope"]),
    ("--ladder", ["proxy", "short,supernet", "nope"]),
    ("--data", ["text.txt", "folder", "short.txt", "/dev/null", "nope", "", "."]),
    ("--model", ["folder", "nope", "out1"]),
    ("--warm-start", STUDIES),
    ("--target", ["nope", "folder"]),
    ("--time", TIMES),
    ("--picture", ["", "front.png", "text.txt", "keep.png", "no/such/front.png", "front.xyz"]),
    ("--device", ["cpu", "tpu"]),
    ("--print-recipe", [None]),
    ("--json", [None]),
    ("--nope", NUMBERS),
]
RUN = ["--recipe", "small.toml", "--runner", "local"]
HEAVY = ["--recipe", "small.toml"]
Options = Sequence[tuple[str, Sequence[str | None]]]
COMMANDS: list[tuple[int, list[str], Options, list[list[str]]]] = [
    # weight, command, options, values without an option in their order
    (16, ["search", "--space", "mine.toml", *RUN, "--trials", "2", "--picture", ""], SEARCH, []),
    (
        6,
        ["resume", "--runner", "local", "--picture", ""],
        [("--trials", NUMBERS), ("--time", TIMES)],
        [STUDIES],
    ),
    (6, ["studies"], [("--json", [None])], [["list", "show", "shwo", "compare"], STUDIES, STUDIES]),
    (3, ["studies", "show"], [("--json", [None])], [STUDIES]),
    (3, ["studies", "compare"], [], [STUDIES, STUDIES]),
    (2, ["studies", "rename"], [], [STUDIES, STUDIES]),
    (2, ["studies", "delete"], [], [STUDIES]),
    (
        6,
        ["front"],
        [("--picture", ["front.png", "text.txt", "keep.png", "no/x.png"]), ("--json", [None])],
        [STUDIES],
    ),
    (4, ["ops"], [("--slot", ["mixer", "mixr"])], [["list", "show", "mlp", "nope"], ["mlp", "nope"]]),
    (2, ["spaces"], [("--json", [None])], [["list", "chek"]]),
    (2, ["spaces", "check"], [], [["broken.toml", "empty.toml", "text.txt", "nope", ""]]),
    (2, ["devices"], [], [["list", "nope"]]),
    (
        12,
        ["export"],
        [("--out", OUTS), ("--overwrite", [None]), ("--format", ["csv", "json", "xls"])],
        [STUDIES],
    ),
    (8, ["report"], [("--out", OUTS)], [STUDIES]),
    (
        6,
        ["extract"],
        [
            ("--out", OUTS),
            ("--overwrite", [None]),
            ("--knee", [None]),
            ("--trial", NUMBERS),
            ("--max", BOUNDS),
            ("--format", ["gguf"]),
            ("--finetune", ["0", "-1", "nan"]),
        ],
        [STUDIES],
    ),
    (4, ["import"], [("--out", OUTS), ("--overwrite", [None])], [["folder", "text.txt", "nope", "out1", ""]]),
    (4, ["linearize"], [("--out", OUTS), ("--window", NUMBERS)], [["folder", "text.txt", "nope", ""]]),
    (3, ["solve"], [("--max", ["loss=1", "flops=nan", "flops", "latency=0"])], [["nope", "x", ""]]),
    (3, ["train"], [("--networks", ["0", "x"]), ("--steps", ["0", "-1", "nan"])], [["nope", ""]]),
    (3, ["trust"], [("--networks", ["0", "4"]), ("--table", ["folder", "nope"])], [["nope", ""]]),
    (
        4,
        ["simulate", "--table", "table.csv", "--objectives", "loss,cost", "--searcher", "random"],
        [
            ("--evaluations", ["0", "-1", "x"]),
            ("--table", ["text.txt", "nope", "folder", "cut.csv"]),
            ("--objectives", ["lss", "", "loss,loss"]),
        ],
        [],
    ),
    (2, ["truth", "show"], [], [["folder", "nope", "text.txt"]]),
    (2, ["truth", "build", "--space", "mine.toml"], [("--out", OUTS), ("--count", ["0", "1", "x"])], []),
    (2, ["proxies", "report"], [("--table", ["folder", "nope", "text.txt"]), ("--draws", NUMBERS)], []),
    (3, ["worker", "--idle", "0.2s"], [("--study", STUDIES), ("--evaluate", ["foo", "os:name", ":"])], []),
    (2, ["serve"], [("--port", ["70000", "-1", "x"])], []),
    (
        4,
        ["token"],
        [("--scope", ["read", "nope"]), ("--expires", TIMES)],
        [["create", "list", "revoke"], STUDIES],
    ),
    (2, ["predict"], [("--table", ["text.txt", "nope", "folder"]), ("--draws", NUMBERS)], []),
    (3, ["profile"], [("--space", ["nope", "broken.toml"]), ("--seq-len", ["0", "99999"])], []),
    (2, [], [], [["serach", "--version", "", "help", "--nope"]]),
]
# What works whatever went before, so that the others meet a database that is in use
GOOD = [
    ["studies", "--json"],
    ["studies", "list"],
    ["spaces"],
    ["ops", "mlp"],
    ["devices", "--json"],
    ["token", "list"],
    ["search", "--space", "mine.toml", "--print-recipe"],
]
ALWAYS = {
    "simulate",
    "truth",
    "serve",
    "profile",
    "solve",
}  # would work for long, or for ever, with none of their bad values


def digests(paths: Sequence[Path]) -> dict[Path, str]:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "gone" for p in paths}


def drawn(rng: random.Random) -> list[str]:
    _, command, options, places = rng.choices(COMMANDS, [c[0] for c in COMMANDS])[0]
    words = list(command)
    for values in places:
        if rng.random() < 0.9:
            words.append(rng.choice(values))
    share = 1.0 if words[:1] and words[0] in ALWAYS else min(0.5, 2.5 / max(1, len(options)))
    for option, choices in options:
        if rng.random() < share:
            value = rng.choice(choices)
            words += [option] if value is None else [option, value]
    if rng.random() < 0.15 and command and command[0] in ("search", "studies", "front", "export", "report"):
        words += ["--db", rng.choice(DBS)]
    return words


def disturb(rng: random.Random, folder: Path, theirs: list[Path]) -> None:
    """What happens beside `nas`: a file of its own is cut short, or the user puts one of theirs beside it."""
    made = sorted(
        p
        for p in folder.rglob("*")
        if p.is_file()
        and p not in theirs
        and not p.name.startswith(("nas.db", ".nas"))
        and "home" not in p.parts
    )
    if not made:
        return
    chosen = rng.choice(made)
    if rng.random() < 0.5:
        chosen.write_bytes(chosen.read_bytes()[: rng.randrange(1 + chosen.stat().st_size)])
    beside = chosen.with_name("of_the_user.txt")
    if beside not in theirs:
        beside.write_text("mine")
        theirs.append(beside)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
def test_no_command_breaks_or_loses_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NAS_DB", raising=False)
    (folder / "mine.toml").write_text(SPACE)
    (folder / "broken.toml").write_text(SPACE[: len(SPACE) // 2])
    (folder / "empty.toml").write_text(SPACE.replace("depth = [1, 2]", "depth = [0]"))
    (folder / "small.toml").write_text(RECIPE)
    (folder / "text.txt").write_text("To be, or not to be, that is the question. " * 200)
    (folder / "short.txt").write_text("a line")
    (folder / "keep.png").write_bytes(b"\x89PNG of the user")
    (folder / "folder").mkdir()
    (folder / "folder" / "notes.md").write_text("to do")
    (folder / "folder" / "config.json").write_text('{"model_type": ')
    table = tables.write(folder / "table.csv", count=60)
    (folder / "cut.csv").write_text(table.read_text()[:900])
    theirs = [p for p in folder.rglob("*") if p.is_file()]
    seen = digests(theirs)
    rng = random.Random(0)
    assert main(["search", "--space", "mine.toml", *RUN, "--study", "one", "--objectives", "loss,parameters",
                 "--trials", "3", "--picture", ""]) == 0  # fmt: skip
    walked, wrong = [], []
    for step in range(STEPS):
        words = rng.choice(GOOD) if rng.random() < 0.2 else drawn(rng)
        capsys.readouterr()
        try:
            status = main(words)
        except SystemExit as ended:  # --version, --help
            status = int(ended.code or 0)
        except Exception as error:
            status = 3
            print(f"Traceback: {error!r}")
        out, err = capsys.readouterr()
        walked.append((words, status))
        told = f"step {step}: nas {json.dumps(words)[:600]}\n{err[-2000:]}"
        has_sentence = status != 2 or "nas: " in (err.strip().splitlines() or [""])[-1]
        if status not in (0, 1, 2) or "Traceback" in out + err or not has_sentence:
            wrong.append(told)
        changed = [str(path) for path, digest in digests(theirs).items() if digest != seen[path]]
        if changed:
            wrong.append(f"changed {changed} at {told}")
        if rng.random() < 0.15:
            disturb(rng, folder, theirs)
        seen = digests(theirs)
    assert not wrong, "\n".join(wrong)
    statuses = Counter((words[0] if words else "", status) for words, status in walked)
    assert sum(status == 0 for _, status in walked) > STEPS / 10, statuses  # enough of them do something
    with closing(Store("sqlite:///nas.db")) as store:
        for study in store.studies():
            store.trials(store.study(study.name))
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
