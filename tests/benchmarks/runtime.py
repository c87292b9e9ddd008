"""Latencies in onnxruntime: what a profile costs, and how well it predicts networks that it was not fitted to.

Each space has two lines in studies/results/onnxruntime/runs.jsonl: the seconds of a profile from scratch, also as
processor time, and the agreement of predictions with the measured latencies of random networks, beside

    retest        the same networks measured again
    flops         a line through FLOPs, fitted to the profile's networks
    parameters    a line through parameters, likewise
    eager table   predictions of an eager profile of this machine, scaled to the measured latencies
    eager         latencies measured in eager torch, scaled likewise: the best that an eager table could predict

NAS_HELD_OUT is the number of networks (60), NAS_MINILM the folder of a MiniLM, which is left out where unset.
An interrupted benchmark continues after the last line; an unfinished profile starts again, because it is timed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from nas.importing.load import import_model, imported
from nas.measuring import OnProgress, measure
from nas.provenance import provenance
from predictors.device import DeviceProfile
from predictors.evaluate import Evaluation, evaluate
from predictors.lookup import OperatorTable
from predictors.profiling import graphs_folder, local_profile, local_profile_folder
from predictors.runtimes import EAGER, ONNXRUNTIME
from searchspace.load import load_space
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from tests.benchmarks.rows import Row

WORK, RESULTS = Path("out/onnxruntime"), Path("studies/results/onnxruntime")
SPACES, MINILM = ("small-lm", "vision"), "minilm"
MINILM_LENGTH = 64
AIMS = {"small-lm": 120, "vision": 120, MINILM: 180}  # seconds per profile on two idle cores
SAMPLES = 15


def run() -> list[Row]:
    rows: list[Row] = []
    for name, space, workload in _spaces():
        profiled = _known(name, "profile") or _line(name, "profile", _profiled(name, space, workload))
        held_out = int(os.environ.get("NAS_HELD_OUT", "60"))
        compared = _known(name, "held out")
        if compared is None or compared["networks"] < held_out:
            compared = _line(name, "held out", _compared(name, space, workload, held_out))
        rows += _rows(name, profiled, compared)
    return rows


def _spaces() -> Iterator[tuple[str, SpaceSpec, Workload]]:
    for name in SPACES:
        space = load_space(name)
        yield name, space, Workload(seq_len=int(space.stem.get("max_len") or 64))
    if path := os.environ.get("NAS_MINILM"):
        folder = WORK / MINILM / "model"
        if not folder.is_dir():
            import_model(path, folder)
        yield MINILM, imported(folder).space, Workload(seq_len=MINILM_LENGTH)


def _profiled(name: str, space: SpaceSpec, workload: Workload) -> dict[str, Any]:
    shutil.rmtree(WORK / name / "profiles", ignore_errors=True)
    start, cpu = time.perf_counter(), os.times()
    measure(partial(_profile, name, space, workload, ONNXRUNTIME), "cpu", partial(_say, name))
    spent = os.times()
    worked = spent.children_user + spent.children_system - cpu.children_user - cpu.children_system
    return {"seconds": time.perf_counter() - start, "cpu_seconds": worked, "aim": AIMS[name]}


def _profile(
    name: str, space: SpaceSpec, workload: Workload, runtime: str, on_progress: OnProgress
) -> DeviceProfile:
    return local_profile(space, workload, WORK / name / "profiles", runtime=runtime, on_progress=on_progress)


def _compared(name: str, space: SpaceSpec, workload: Workload, count: int) -> dict[str, Any]:
    found = measure(partial(_evaluated, name, space, workload, count), "cpu", partial(_say, name))
    print(found.table())
    predictors = {row.name: asdict(row) for row in found.rows}
    return {"networks": count, "inside": found.inside, "predictors": predictors}


def _evaluated(
    name: str, space: SpaceSpec, workload: Workload, count: int, on_progress: OnProgress
) -> Evaluation:
    eager = OperatorTable.of_profile(_profile(name, space, workload, EAGER, on_progress), space.name)
    folder = local_profile_folder(workload, WORK / name / "profiles", runtime=ONNXRUNTIME)
    return evaluate(
        space,
        DeviceProfile.load(folder),
        count,
        samples=SAMPLES,
        graphs=graphs_folder(folder),
        tables={"eager table": eager},
        on_round=lambda done, of: on_progress(done, of, "held-out networks"),
    )


def _say(name: str, done: int, of: int, text: str) -> None:
    print(f"{name}: {text} {done} of {of}", flush=True)


def _rows(name: str, profiled: dict[str, Any], compared: dict[str, Any]) -> list[Row]:
    seconds, by_name = profiled["seconds"], compared["predictors"]
    rows = [Row(f"{name}, profile", seconds, seconds, seconds, "s", str(profiled["aim"]))]
    for what, aim in (("median_error", "0.05"), ("error_95", "0.15"), ("spearman", "0.98")):
        value = by_name["predicted"][what]
        others = ", ".join(f"{n} {row[what]:.3f}" for n, row in by_name.items() if n != "predicted")
        rows.append(Row(f"{name}, {what}", value, value, value, "", aim, others))
    return rows


def _known(name: str, what: str) -> dict[str, Any] | None:
    path = RESULTS / "runs.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [line for line in map(json.loads, lines) if (line["space"], line["what"]) == (name, what)]
    return found[-1] if found else None


def _line(name: str, what: str, found: dict[str, Any]) -> dict[str, Any]:
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"space": name, "what": what, **found, **provenance("cpu", 1)}) + "\n")
    return found
