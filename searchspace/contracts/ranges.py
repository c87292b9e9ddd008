"""Every number of an operator has a range: it computes within it, and refuses other values in a sentence."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract, once
from searchspace.registry import SIZE, Nested, Operator, Range
from searchspace.spec.arch import OpSpec, Scalar
from searchspace.validity import why_op_invalid

T = 16
LARGE = 24  # largest integer that is drawn, since large sizes take time
ODD_VALUES = ("no such word", -1, 1.5, math.nan, math.inf, True, OpSpec("none"))


def domains(entry: Operator) -> Iterator[tuple[str, tuple[Scalar, ...]]]:
    """Yield every hyperparameter with examples of its values."""
    yield from ((name, d) for name, d in entry.searched.items() if not isinstance(d, Nested))
    yield from ((name, (value,)) for name, value in entry.fixed.items())


def numbers(domain: Sequence[Scalar]) -> list[Any]:
    return [v for v in domain if isinstance(v, int | float) and not isinstance(v, bool)]


def with_item(case: Case, name: str, value: Any) -> Case:
    return Case(case.slot, OpSpec.of(case.spec.op, **dict(case.spec.items) | {name: value}), case.context)


@contract(when=once)
def what_is_outside_its_range_is_refused(case: Case) -> None:
    """The refusal must name the operator, the hyperparameter, the value and what is allowed."""
    for name, domain in domains(case.entry):
        bounds = case.entry.ranges.get(name, SIZE)
        outside: list[Any] = list(ODD_VALUES)
        if numbers(domain) and isinstance(bounds, Range):
            outside += [bounds.low - 1, bounds.low if bounds.above else bounds.low - 2]
            outside += [bounds.high + 1] if bounds.high < math.inf else []
            outside += [bounds.low + 1] if bounds.step > 1 else []
            whole = not bounds.fractions and all(isinstance(v, int) for v in numbers(domain))
            outside = [v for v in outside if not (is_number(v) and bounds.holds(v) and not (whole and v % 1))]
        if any(isinstance(v, bool) for v in domain):
            outside.remove(True)
        for value in outside:
            reason = case.entry.why_not(name, value)
            assert reason is not None, f"{name} = {value!r} is not refused"
            for what in (f"{case.spec.op}: {name} = {value!r}", "must be "):
                assert what in reason, f"the refusal {reason!r} lacks {what!r}"
            found = with_item(case, name, value)
            assert why_op_invalid(case.slot, found.spec, case.context) == reason, f"{found} is valid"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contract(when=once)
@torch.no_grad()
def what_is_inside_its_range_computes(case: Case) -> None:
    """Outputs must be finite; a normalizer's rows must be nonnegative and sum to 1 if they do for offered values."""
    for name, domain in domains(case.entry):
        if not numbers(domain):
            continue
        kept = kept_by(with_item(case, name, value) for value in domain)
        for value in inside(case, name, domain):
            found = with_item(case, name, value)
            if why_op_invalid(found.slot, found.spec, found.context) is not None:
                continue  # invalid in combination, such as a size that does not divide another
            lost = kept - kept_by([found])
            assert not lost, f"with {name} = {value} the outputs are not {' and '.join(sorted(lost))}"


def inside(case: Case, name: str, domain: Sequence[Scalar]) -> list[float]:
    """Return the ends of the range and random values between them."""
    bounds, rng = case.entry.ranges.get(name, SIZE), random.Random(f"{case.spec.op} {name}")
    assert isinstance(bounds, Range)
    if not all(isinstance(v, int) for v in numbers(domain)):
        high = min(bounds.high, 2 * max(numbers(domain)))
        low = bounds.low + 1e-3 * (high - bounds.low) * bounds.above
        return [low, rng.uniform(low, high), high]
    step = max(bounds.step, 2 if name == "head_dim" else 1)  # rotary positions rotate pairs of channels
    first = int(bounds.low) + (step - 1 if name == "head_dim" else 0)
    last = max(first, int(min(bounds.high, first + step, 2**20)), int(min(bounds.high, LARGE)))
    return sorted({first, first + (last - first) // step * step, rng.randrange(first, last + 1, step)})


def kept_by(settings: Any) -> set[str]:
    kept = {"finite", "at least 0", "rows of sum 1"}
    for case in settings:
        if why_op_invalid(case.slot, case.spec, case.context) is not None:
            continue
        if case.slot in ("stem", "head", "way_back"):  # these have other inputs
            case.on_meta()
            continue
        y = cases.run(case, case.build(), *cases.inputs(case, T))
        kept -= set() if y.isfinite().all() else {"finite"}
        is_normalizer = case.slot == "normalizer"
        kept -= set() if is_normalizer and (y >= 0).all() else {"at least 0"}
        kept -= set() if is_normalizer and (y.sum(-1) - 1).abs().max() < 1e-9 else {"rows of sum 1"}
    return kept
