"""Parses objectives with a device and workload: `latency@cpu:decode,b=1,ctx=4096`. Does not import torch.

    NAME[@[DEVICE[/RUNTIME]:]WORKLOAD]
                 WORKLOAD: phase, b=batch_size, t= or seq=seq_len, ctx=context_len, dtype; in any order

Parts that are left out are the recipe's. A study has one workload, device and runtime, so all objectives that state
them must state the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nas.errors import UsageError
from nas.request.recipe import Recipe
from predictors.runtimes import RUNTIMES
from searchspace.spec.reading import unknown
from searchspace.spec.workload import DTYPE_BYTES, PHASES

FORM = "NAME@DEVICE/RUNTIME:PHASE,b=1,t=64,ctx=0,float32"
_NUMBERS = {"b": "batch_size", "t": "seq_len", "seq": "seq_len", "ctx": "context_len"}


def split(text: str) -> list[str]:
    """Split a comma-separated list of objectives; commas inside a workload do not separate."""
    found: list[str] = []
    for piece in (p.strip() for p in text.split(",")):
        of_workload = "=" in piece or piece in (*PHASES, *DTYPE_BYTES)
        if of_workload and found and "@" in found[-1]:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


def parse(objectives: Sequence[str], recipe: Recipe, device: str) -> tuple[list[str], Recipe, str]:
    """The plain names of the objectives, the recipe with their workload and runtime, and the device.

    Raises UsageError for a malformed objective, and if objectives state different devices, runtimes or workloads.
    """
    names, stated = [], {}
    for objective in objectives:
        name, at, rest = objective.partition("@")
        names.append(name)
        if not at:
            continue
        where, colon, workload = rest.rpartition(":")
        if colon and not where:
            raise UsageError(f"--objectives {objective}: the device before ':' is missing; write {FORM}")
        where, slash, runtime = where.partition("/")
        if slash and runtime not in RUNTIMES:
            raise UsageError(
                f"--objectives {objective}: {unknown(runtime, RUNTIMES, 'runtime')}; write {FORM}"
            )
        found = replace(recipe.workload, **_workload(objective, workload))
        stated[where or device, runtime or recipe.runtime, found] = objective
    if len(stated) > 1:
        raise UsageError(
            f"--objectives {','.join(stated.values())}: a study is for one device, runtime and workload; "
            f"state the same for all, or make two studies"
        )
    for where, runtime, found in stated:
        device, recipe = where, replace(recipe, workload=found, runtime=runtime)
    return names, recipe, device


def _workload(objective: str, text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, number = part.strip().partition("=")
        if key in PHASES and not equals:
            values["phase"] = key
        elif key in DTYPE_BYTES and not equals:
            values["dtype"] = key
        elif key in _NUMBERS and number.isdecimal() and (int(number) > 0 or key == "ctx"):
            values[_NUMBERS[key]] = int(number)
        else:
            raise UsageError(
                f"--objectives {objective}: {part.strip()!r} is no part of a workload; write {FORM} with a phase of "
                f"{', '.join(PHASES)}"
            )
    return values
