"""Objectives that state what they are for: `latency@cpu:decode,b=1,ctx=4096`. Loads no torch.

    NAME[@[DEVICE:]WORKLOAD]     WORKLOAD: phase, b=batch_size, t=seq_len, ctx=context_len, dtype; in any order

What is left out stays as in the recipe. A study is costed and timed for one workload, so all that state one have to
state the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nas.errors import UsageError
from nas.setup.recipe import Recipe
from searchspace.spec.workload import DTYPE_BYTES, PHASES

FORM = "NAME@DEVICE:PHASE,b=1,t=64,ctx=0,float32"
_NUMBERS = {"b": "batch_size", "t": "seq_len", "ctx": "context_len"}


def split(text: str) -> list[str]:
    """The objectives of a list with commas, those of a workload left where they are."""
    found: list[str] = []
    for piece in (p.strip() for p in text.split(",")):
        of_workload = "=" in piece or piece in (*PHASES, *DTYPE_BYTES)
        if of_workload and found and "@" in found[-1]:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


def parse(objectives: Sequence[str], recipe: Recipe, device: str) -> tuple[list[str], Recipe, str]:
    """The bare names, the recipe with the workload they state, and the device. Raises UsageError naming the option."""
    names, stated = [], {}
    for objective in objectives:
        name, at, rest = objective.partition("@")
        names.append(name)
        if not at:
            continue
        where, colon, workload = rest.rpartition(":")
        if colon and not where:
            raise UsageError(f"--objectives {objective}: the device before ':' is missing; write {FORM}")
        stated[where or device, replace(recipe.workload, **_workload(objective, workload))] = objective
    if len(stated) > 1:
        raise UsageError(
            f"--objectives {','.join(stated.values())}: a study is for one device and workload; "
            f"state the same for all, or make two studies"
        )
    for found in stated:
        device, recipe = found[0], replace(recipe, workload=found[1])
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
                f"--objectives {objective}: {part.strip()!r} is no part of a workload; write {FORM}, "
                f"the phase one of {', '.join(PHASES)}"
            )
    return values
