"""A small space with two opposed objectives that cost nothing to evaluate, to test the search loop. No torch.

Also the evaluators that process pools load by name.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.space import BlockSpace, Candidate, Choice, Slot, SpaceSpec, StageSpace
from studies.records import Objective, Study

OBJECTIVES = (Objective("loss"), Objective("cost"))
LADDER = ("proxy", "quarter")


def space(num_blocks: int = 4, name: str = "toy") -> SpaceSpec:
    """Two mixers and two ffns with their items, in up to `num_blocks` blocks of one of four widths."""
    block = BlockSpace(
        mixer=Slot(
            (
                Candidate("attention", (("num_heads", Choice((1, 2, 4))), ("window", Choice((8, 16, 32))))),
                Candidate("convolution", (("kernel_size", Choice((3, 5, 7))),)),
            )
        ),
        ffn=Slot((Candidate("mlp", (("ratio", Choice((1, 2, 3, 4))),)), Candidate("none"))),
        norm=Slot.fixed("rmsnorm"),
        projection=Slot.fixed("dense"),
        placement=Choice(("pre", "post")),
    )
    stage = StageSpace(blocks=(block,) * num_blocks, depth=Choice(tuple(range(1, num_blocks + 1))))
    return SpaceSpec(
        name=name,
        version=1,
        task="causal_lm",
        data="none",
        stem=OpSpec("embedding"),
        head=OpSpec("lm_head"),
        d_model=Choice((32, 64, 96, 128)),
        stages=(stage,),
    )


def tiny_space() -> SpaceSpec:
    """Twelve architectures: three widths, depth one or two, pre or post norm shared by the blocks."""
    block = BlockSpace(
        mixer=Slot.fixed("attention"),
        ffn=Slot.fixed("mlp"),
        norm=Slot.fixed("rmsnorm"),
        projection=Slot.fixed("dense"),
        placement=Choice(("pre", "post")),
        placement_shared=True,
    )
    return SpaceSpec(
        name="tiny",
        version=1,
        task="causal_lm",
        data="none",
        stem=OpSpec("embedding"),
        head=OpSpec("lm_head"),
        d_model=Choice((32, 64, 96)),
        stages=(StageSpace(blocks=(block,) * 2, depth=Choice((1, 2))),),
    )


def study(searcher: str = "random", max_trials: int = 40, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "toy",
        "space": space().to_json(),
        "objectives": OBJECTIVES,
        "searcher": searcher,
        "seed": 7,
        "lag": 4,
        "max_trials": max_trials,
    }
    return Study(**(fields | changes))


def judge(arch: ArchSpec, fidelity: str = "") -> dict[str, float]:
    """Capacity costs and helps, with diminishing returns that depend on the kind of block.

    The lower the fidelity, the more of the loss is a hash of the architecture.
    """
    capacity = cost = 0.0
    width = arch.d_model / 32
    for i, block in enumerate(b for b in arch.blocks if b.is_active):
        if block.mixer.op == "attention":
            capacity += (
                1.0 + 0.2 * block.mixer.get("num_heads", 1) - 0.01 * abs(block.mixer.get("window", 8) - 16)
            )
            cost += width * (1.5 + block.mixer.get("window", 8) / 16)
        else:
            capacity += 0.9 - 0.1 * i + 0.05 * block.mixer["kernel_size"]
            cost += width * 0.2 * block.mixer["kernel_size"]
        ratio = block.ffn.get("ratio", 0)
        capacity += ratio**0.5 * (0.5 if block.placement == "pre" else 0.2)
        cost += width * ratio
    noise = {"proxy": 1.0, "quarter": 0.3, "": 0.0}[fidelity]
    loss = 4.0 - (capacity * width**0.5) ** 0.5
    return {"loss": loss + noise * int(arch.id[:4], 16) / 0xFFFF if noise else loss, "cost": cost}


def evaluator(
    log: str = "", sleep_ms: float = 0.0, jitter: int = 0, faults: Mapping[str, str] | None = None
) -> Callable[..., dict[str, float]]:
    """`judge` with a note in a file, a sleep that differs between calls, and faults by architecture id.

    The log gets one line per evaluation, written in one call, so lines of several processes do not mix: the id, with
    the fidelity behind it where there is one.
    """

    def evaluate(arch: ArchSpec, fidelity: str = "") -> dict[str, float]:
        if log:
            with Path(log).open("a") as file:
                file.write(f"{arch.id}{fidelity}\n")
        noise = hash((os.getpid(), time.monotonic_ns(), jitter)) % 100 / 100
        time.sleep(sleep_ms * (1 + (noise if jitter else 0)) / 1e3)
        fault = (faults or {}).get(arch.id, "")
        if fault == "nan":
            return judge(arch, fidelity) | {"loss": float("nan")}
        if fault == "memory":
            raise MemoryError("no room for the activations")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exit":
            os._exit(3)
        return judge(arch, fidelity)

    return evaluate
