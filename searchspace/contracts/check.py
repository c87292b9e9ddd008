"""Runs every contract on one operator: the table that `nas ops check` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchspace import registry
from searchspace.contracts import (
    cases,
    causality,
    declarations,
    decoding,
    devices,
    flops,
    formats,
    lengths,
    mates,
    packing,
    padding,
    precision,
    ranges,
    reference,
    sharing,
    slicing,
)
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import Contract
from searchspace.spec.reading import unknown

TOPICS = (
    declarations,
    ranges,
    reference,
    causality,
    decoding,
    lengths,
    mates,
    padding,
    packing,
    precision,
    devices,
    flops,
    formats,
    sharing,
    slicing,
)


@dataclass(frozen=True)
class Result:
    """Result of one contract on one operator: the number of settings tried, and why the last of them fails."""

    contract: str
    num_settings: int
    failure: str | None


def contracts() -> list[Contract]:
    return [c for topic in TOPICS for c in vars(topic).values() if isinstance(c, Contract)]


def contracts_of(name: str, slot: str | None = None) -> list[tuple[Contract, list[Case]]]:
    """Return an operator's contracts with the settings to test, in the given slot or in every slot with this name.

    Raises ValueError for an unknown operator, listing the known ones, and where no setting is valid.
    """
    known = {n for s, n in registry.operators() if n != "none" and slot in (None, s)}
    if name not in known:
        raise ValueError(unknown(name, sorted(known), slot or "operator"))
    found = [
        (c, [case for case in c.cases() if case.spec.op == name and slot in (None, case.slot)])
        for c in contracts()
    ]
    found = [(c, tried) for c, tried in found if tried]
    if not found:
        raise ValueError(f"{name}: no setting that was drawn is valid with d_model {cases.D} and 64 tokens")
    return found


def check(contract: Contract, settings: Sequence[Case]) -> Result:
    """Check setting by setting until one fails."""
    for number, case in enumerate(settings, 1):
        try:
            contract(case)
        except AssertionError as broken:
            return Result(contract.name, number, f"{case}: {broken}")
        except Exception as error:  # an operator that does not run fulfils no contract
            sentence = f"{type(error).__name__}: {error}".splitlines()[0]
            return Result(contract.name, number, f"{case}: {sentence}")
    return Result(contract.name, len(settings), None)
