"""How time and decoding state of every token mixer grow with length, compared with the claim of its entry.

An exponent is the slope of log cost over log length. State and FLOPs are exact, from the entry's cost; time is measured
at a small width, and its slope is that of the longer half of the lengths.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from predictors.network_bench import reference_call, runnable
from predictors.operator_grid import Setting, operator_call
from predictors.timing import num_threads, time_interleaved
from searchspace import registry
from searchspace.cost import part_cost
from searchspace.primitives.context import BuildContext, Layout
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_op_invalid
from tests.benchmarks.rows import Row

WIDTH = 32
LENGTHS = (128, 256, 512, 1024, 2048)
FAR = (2**18, 2**20)  # lengths at which lower powers are negligible
SECONDS_PER_MIXER = 1.0
TOKEN = re.compile(r"[A-Za-z_']+|[0-9.]+|[-+/^()]")


@dataclass(frozen=True)
class Exponent:
    value: float
    r2: float


def fitted(lengths: tuple[int, ...], costs: list[float]) -> Exponent:
    """Return slope and r^2 of log cost over log length; for a constant cost the slope is 0 and r^2 is 1."""
    x, y = np.log2(lengths), np.log2(np.maximum(costs, 1e-12))
    slope, offset = np.polyfit(x, y, 1)
    left = float(((y - slope * x - offset) ** 2).sum())
    total = float(((y - y.mean()) ** 2).sum())
    return Exponent(float(slope), 1 - left / total if total > 1e-12 else 1.0)


def mixer(entry: Operator, max_len: int) -> Setting:
    """Return the mixer with the first valid setting of its smallest, middle and largest hyperparameters.

    Raises ValueError where none of them is valid.
    """
    context = BuildContext(WIDTH, causal=True, layout=Layout(max_len))
    reasons = []
    for place in (0.0, 0.5, 1.0):
        spec = _spec(entry, place)
        reason = why_op_invalid("mixer", spec, context)
        if reason is None:
            return Setting("mixer", spec, context)
        reasons.append(reason)
    raise ValueError(f"{entry.name} has no valid setting at width {WIDTH}: {reasons[0]}")


def _spec(entry: Operator, place: float) -> OpSpec:
    items: dict[str, object] = {}
    for name, domain in entry.choices.items():
        if isinstance(domain, Nested):
            items[name] = _spec(registry.operator(domain.slot, domain.candidates[0]), place)
        else:
            items[name] = domain[round(place * (len(domain) - 1))]
    return OpSpec.of(entry.name, **items)  # type: ignore[arg-type]


def mixers() -> list[Operator]:
    """Return every causal token mixer."""
    return [
        e
        for (slot, name), e in registry.operators().items()
        if slot == "mixer" and e.causal and name != "none"
    ]


def exact(setting: Setting) -> tuple[Exponent, Exponent]:
    """Return the exponents of (FLOPs, state bytes) at the lengths FAR."""
    costs = [part_cost("mixer", setting.spec, setting.context, T, T, 4) for T in FAR]
    return fitted(FAR, [float(c.flops) for c in costs]), fitted(FAR, [float(c.state_bytes) for c in costs])


def claimed(text: str) -> float:
    """Return the exponent of an entry's formula in T and S: `T S H K` has 2, `T log(T)` a little over 1."""
    text = re.sub(
        r"at most|twice with LRPE|bytes?|cluster numbers",
        "",
        re.split(r"[,;]", text)[-1 if ";" in text else 0],
    )
    text = text.replace("causal", "")
    low, high = (_Formula(TOKEN.findall(text), float(T)).sum() for T in FAR)
    return math.log(high / low) / math.log(FAR[1] / FAR[0]) if low > 0 else 0.0


class _Formula:
    """A sum of products of letters, numbers, powers and logarithms; T and S are the length, other letters are 2."""

    def __init__(self, tokens: list[str], length: float) -> None:
        self.tokens, self.length = tokens, length

    def sum(self) -> float:
        found = self.product()
        while self.tokens and self.tokens[0] in "+-":
            sign = 1.0 if self.tokens.pop(0) == "+" else -1.0
            found += sign * self.product()
        return found

    def product(self) -> float:
        found = self.power()
        while self.tokens and self.tokens[0] not in ("+", "-", ")"):
            if self.tokens[0] == "/":
                self.tokens.pop(0)
                found /= self.power()
            else:
                found *= self.power()
        return found

    def power(self) -> float:
        base = self.atom()
        if self.tokens and self.tokens[0] == "^":
            self.tokens.pop(0)
            return base ** self.atom()
        return base

    def atom(self) -> float:
        token = self.tokens.pop(0)
        if token == "(":
            found = self.sum()
            self.tokens.pop(0)
            return found
        if token == "log":
            return math.log(self.atom())
        if token in ("T", "S"):
            return self.length
        return float(token) if token[0].isdigit() else 2.0


def run() -> list[Row]:
    """Return two rows per mixer: time against length and state against length."""
    found = []
    for entry in mixers():
        longest = mixer(entry, LENGTHS[-1])
        flops, state = exact(longest)
        about = f"claimed {claimed(entry.complexity):.2f} ({entry.complexity}), FLOPs {flops.value:.2f}"
        times = _times(entry)
        if len(times) >= 3:
            half = dict(sorted(times.items())[len(times) // 2 :])
            time = fitted(tuple(half), list(half.values()))
            row = Row(
                f"{entry.name}, time to {max(times)}",
                time.value,
                time.value,
                time.value,
                f"r^2 {time.r2:.3f}",
            )
            found.append(Row(row.name, row.value, row.low, row.high, row.unit, baseline=about))
        held = f"claimed {claimed(entry.state):.2f} ({entry.state})"
        found.append(
            Row(
                f"{entry.name}, state",
                state.value,
                state.value,
                state.value,
                f"r^2 {state.r2:.3f}",
                baseline=held,
            )
        )
    return found


def _times(entry: Operator) -> dict[int, float]:
    """Time in multiples of the reference network's, by length, for as many lengths as the mixer's seconds allow."""
    found: dict[int, float] = {}
    for T in LENGTHS:
        make = partial(operator_call, mixer(entry, T), Workload(seq_len=T), "cpu")
        with num_threads(1):
            calls, _ = runnable({"mixer": make})
            if not calls:
                break
            seconds = SECONDS_PER_MIXER / len(LENGTHS)
            timing = time_interleaved(calls, reference_call("cpu"), samples=5, seconds=seconds)["mixer"]
        found[T] = timing.ratio
        if timing.median_ms > 1000 * SECONDS_PER_MIXER / 40:
            break
    return found
