"""Every operator setting that a space can use, and what each takes.

A setting is one operator with its hyperparameters at a width, on a token grid, under a projection kind and number
formats. Where it stands in the network and how its norm is placed change nothing, so they are not part of it. Operators
that turn queries and keys by rotary positions are timed with the positions that the space gives them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import torch

from predictors.network_bench import (
    check_phase,
    dtype_of,
    reference_call,
    rounded,
    runnable,
    stem_inputs,
    to_measurements,
)
from predictors.timing import Call, num_threads, time_interleaved
from searchspace import registry
from searchspace.cost import part_cost
from searchspace.model import parts
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.spec.arch import DENSE, NONE, ArchSpec, BlockSpec, OpSpec, QuantPolicy, StageSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.space import BlockSpace, Slot, SpaceSpec, StageSpace
from searchspace.spec.workload import Workload
from searchspace.validity import why_op_invalid

SECONDS_OF_SAMPLE = 0.0025  # of a subject and the reference beside it, on one thread
WANTED_ROUNDS = 10
MAX_OVERRUN = 10  # times the budget that a large space may take
INTERPOLATED = "interpolated"


@dataclass(frozen=True)
class Setting:
    """One operator as it is timed; `position` is none where the operator takes no rotary positions."""

    slot: str
    spec: OpSpec
    context: BuildContext
    position: OpSpec = NONE

    @cached_property
    def key(self) -> str:
        """One line of text per setting, the same in every run."""
        c = self.context
        tokens = (
            f"grid={c.layout.grid[0]}x{c.layout.grid[1]}" if c.layout.grid else f"max_len={c.layout.max_len}"
        )
        more = {
            "to": c.d_next or "",
            "causal": "" if c.causal else "no",
            "projection": "" if c.projection == DENSE else c.projection,
            "quant": "" if c.quant.is_native else c.quant.to_json(),
            "position": "" if self.position == NONE else self.position,
        }
        facts = [f"d_model={c.d_model}", tokens] + [f"{n}={v}" for n, v in more.items() if v]
        return f"{self.slot} {self.spec} {' '.join(facts)}"


def part_settings(
    slot: str, spec: OpSpec | BlockSpec, context: BuildContext, position: OpSpec
) -> Counter[Setting]:
    """The settings that one part of a model runs, and how often each."""
    if not isinstance(spec, BlockSpec):
        return Counter([_setting(slot, spec, context, position)])
    found: Counter[Setting] = Counter()
    num_norms = 0 if spec.norm == NONE else 2 if spec.placement == "peri" else 1
    for name in ("mixer", "ffn"):
        op = getattr(spec, name)
        if op != NONE:
            found[_setting(name, op, context, position)] += 1
            if num_norms:
                found[_setting("norm", spec.norm, context, position)] += num_norms
    return found


def _setting(slot: str, spec: OpSpec, context: BuildContext, position: OpSpec) -> Setting:
    """The setting with everything left out that does not change what runs."""
    entry = registry.operator(slot, spec.op)
    quant = QuantPolicy(
        tuple((role, f) for role, f in context.quant.roles if role in entry.quantizable),
        context.quant.state if slot == "mixer" else QuantPolicy().state,
    )
    projection = context.projection if slot in ("mixer", "ffn") else DENSE
    context = replace(context, layer=0, num_layers=1, projection=projection, quant=quant)
    return Setting(slot, spec, context, position if entry.rope else NONE)


def settings(space: SpaceSpec) -> list[Setting]:
    """Every setting of the space once, in a fixed order."""
    found: dict[Setting, None] = {}
    seen: set[tuple[BlockSpace, BuildContext, OpSpec]] = set()
    blocks = [block for stage in space.stages for block in stage.blocks]
    for arch in _skeletons(space):
        for name, slot, spec, context in parts(arch):
            if slot != "block":
                found.update(dict.fromkeys(part_settings(slot, spec, context, arch.position)))
                continue
            block = blocks[int(name.removeprefix("blocks."))]
            context = replace(context, layer=0)
            if (block, context, arch.position) not in seen:
                seen.add((block, context, arch.position))
                found.update(dict.fromkeys(_block_settings(block, context, arch.position)))
    return list(found)


def _block_settings(block: BlockSpace, context: BuildContext, position: OpSpec) -> Iterator[Setting]:
    roles = [[(role, f) for f in formats] for role, formats in block.quant]
    for projection, formats in product(_specs(block.projection), product(*roles)):
        here = replace(context, projection=projection, quant=QuantPolicy(tuple(formats)))
        for slot in ("mixer", "ffn", "norm"):
            for spec in _specs(getattr(block, slot)):
                if spec != NONE and why_op_invalid(slot, spec, here) is None:
                    yield _setting(slot, spec, here, position)


def _skeletons(space: SpaceSpec) -> Iterator[ArchSpec]:
    """Architectures with every combination of width, position, final norm and transitions; of blocks, only places."""
    ends = product(space.d_model.values, _specs(space.position), _specs(space.final_norm))
    for d_model, position, final_norm in ends:
        for stages in product(*map(_stage_options, space.stages)):
            arch = _skeleton(space, d_model, position, final_norm, stages)
            if arch is not None:
                yield arch


def _skeleton(
    space: SpaceSpec, d_model: Any, position: OpSpec, final_norm: OpSpec, stages: tuple[Any, ...]
) -> ArchSpec | None:
    width, found = float(d_model), []
    for stage, (ratio, enter, leave) in zip(space.stages, stages, strict=True):
        before, width = round(width), width * ratio
        if enter == NONE and round(width) != before:
            return None
        found.append(StageSpec(len(stage.blocks), round(width), enter, leave))
    place = BlockSpec(mixer=OpSpec("any"))
    num_blocks = sum(s.num_blocks for s in found)
    arch = ArchSpec(
        task=space.task,
        stem=space.stem,
        d_model=int(d_model),
        blocks=(place,) * num_blocks,
        stages=tuple(found),
        head=space.head,
        position=position,
        final_norm=final_norm,
    )
    try:
        places = parts(arch)
    except AssertionError:  # a transition that needs a grid where there is none
        return None
    fits = all(
        isinstance(spec, BlockSpec) or why_op_invalid(slot, spec, context) is None
        for _, slot, spec, context in places
    )
    return arch if fits else None


def _stage_options(stage: StageSpace) -> list[tuple[Any, OpSpec, OpSpec]]:
    return list(product(stage.width_ratio.values, _specs(stage.enter), _specs(stage.leave)))


def _specs(slot: Slot) -> list[OpSpec]:
    """Every candidate with every combination of its values."""
    found = []
    for candidate in slot.candidates:
        domains = [
            [(name, v) for v in (_specs(d) if isinstance(d, Slot) else d.values)]
            for name, d in candidate.items
        ]
        found += [OpSpec(candidate.op, items) for items in product(*domains)]
    return found


# what is measured, and what is interpolated


def measure_settings(
    wanted: Sequence[Setting],
    workload: Workload,
    device: str = "cpu",
    *,
    seconds_budget: float = 25.0,
    known: Sequence[Measurement] = (),
    nominal_ms: float | None = None,
    samples: int = 40,
    threads: int = 1,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Measurement], dict[str, str]]:
    """(one latency for each setting, `known` rows first; reasons by key of those that could not be run).

    Where the budget does not allow every setting, each operator is measured at the extreme and middle values of its
    sizes, or only at the extremes, and the rest is interpolated by FLOPs; those rows have 0 samples. Raises ValueError
    where even those are far too many.
    """
    have = {row.subject: row for row in known}
    missing = [s for s in wanted if s.key not in have]
    limit = int(seconds_budget / (SECONDS_OF_SAMPLE * WANTED_ROUNDS))
    chosen = thinned(missing, limit)
    if len(chosen) > MAX_OVERRUN * limit:
        raise ValueError(
            f"the space has {len(missing):,} operator settings, {len(chosen):,} of them to be measured: too many for "
            f"{seconds_budget:g} s; narrow its choices, or leave latency out of the objectives"
        )
    makers = {s.key: partial(operator_call, s, workload, device) for s in chosen}
    with num_threads(threads):
        calls, failures = runnable(makers)
        timings = (
            time_interleaved(
                calls,
                reference_call(device),
                device=device,
                samples=samples,
                seconds=seconds_budget,
                seed=seed,
                on_round=on_progress,
            )
            if calls
            else {}
        )
    measured = to_measurements(timings, workload, device, threads, nominal_ms, seed)
    rows = {row.subject: row for row in [*known, *measured]}
    left = [s for s in missing if s.key not in rows and s.key not in failures]
    return list(rows.values()) + interpolated(left, wanted, rows, workload), failures


def operator_call(setting: Setting, workload: Workload, device: str) -> Call:
    """One call of the operator on random activations, with the state that the phase gives it."""
    slot, context = setting.slot, setting.context
    check_phase(workload, context.causal)
    dtype = dtype_of(workload)
    module: Any = registry.build(slot, setting.spec, context).to(device, dtype).eval()
    before = workload.context_len if workload.phase == "decode" else 0
    T = num_tokens(setting, workload)
    if slot == "stem":
        inputs, nothing = stem_inputs(setting.spec, workload, T, device), Tokens()
        return lambda: module(inputs, nothing, before)
    x, tokens = _activations(setting, workload, before, T, device)
    if slot not in ("mixer", "ffn"):
        return lambda: module(x, tokens)
    if workload.phase == "forward" or not hasattr(module, "init_state"):
        return lambda: module(x, tokens, None)
    state = module.init_state(workload.batch_size, torch.device(device), dtype)
    if before:
        with torch.inference_mode():
            _, state = module(*_activations(setting, workload, 0, before, device), state)
    return lambda: module(x, tokens, state)


def num_tokens(setting: Setting, workload: Workload) -> int:
    """Tokens of one sequence that the operator computes; a grid decides where there is one."""
    layout = setting.context.layout
    return -(-workload.num_queries // layout.stride) if setting.context.causal else layout.max_len


def _activations(
    setting: Setting, workload: Workload, start: int, T: int, device: str
) -> tuple[torch.Tensor, Tokens]:
    context = setting.context
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(workload.batch_size, T, context.d_model, generator=generator)
    x = x.to(device, dtype_of(workload))
    tokens = Tokens(positions=torch.arange(start, start + T, device=device), grid=context.layout.grid)
    if setting.position != NONE:
        _, tokens = registry.build("position", setting.position, context).to(device)(x, tokens)
    return x, tokens


def thinned(found: Sequence[Setting], limit: int) -> list[Setting]:
    """All of them, or those at the first, middle and last value of every size, or at the first and last.

    A size that is 0 is switched off rather than small: it always stays a case of its own.
    """
    if len(found) <= limit:
        return list(found)
    for num_values in (3, 2):
        values: dict[tuple[Any, str], set[float]] = defaultdict(set)
        for setting in found:
            for name, value in _sizes(setting).items():
                values[_case(setting), name].add(value)
        kept = {where: _spaced(sorted(v), num_values) for where, v in values.items()}
        chosen = [s for s in found if all(v in kept[_case(s), n] for n, v in _sizes(s).items())]
        if len(chosen) <= limit:
            break
    return chosen


def _spaced(values: list[float], count: int) -> set[float]:
    return {values[round(i)] for i in np.linspace(0, len(values) - 1, count)}


def _sizes(setting: Setting) -> dict[str, float]:
    """What may be interpolated: widths and the operator's numbers that are not 0."""
    numbers = {n: float(v) for n, v in setting.spec.items if _is_size(v)}  # type: ignore[arg-type]
    return {"d_model": float(setting.context.d_model), "d_next": float(setting.context.d_next)} | numbers


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 0


def _case(setting: Setting) -> tuple[Any, ...]:
    """All of a setting but its sizes."""
    rest = tuple((n, None if _is_size(v) else v) for n, v in setting.spec.items)
    return (
        setting.slot,
        setting.spec.op,
        rest,
        replace(setting.context, d_model=0, d_next=0),
        setting.position,
    )


def interpolated(
    left: Iterable[Setting],
    all_settings: Iterable[Setting],
    rows: Mapping[str, Measurement],
    workload: Workload,
) -> list[Measurement]:
    """Linear in FLOPs plus activations between measured settings that differ only in their sizes, constant beyond."""
    measured: dict[tuple[Any, ...], dict[float, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for setting in all_settings:
        if setting.key in rows and rows[setting.key].samples:
            measured[_case(setting)][_work(setting, workload)].append(rows[setting.key])
    found = []
    for setting in left:
        points = measured.get(_case(setting))
        if not points:
            continue  # all of its kind failed to run, and are reported as failures
        work = sorted(points)
        values = [float(np.mean([row.value for row in points[w]])) for w in work]
        row = points[work[0]][0]
        nominal = row.reference or 1.0
        value = nominal * rounded(float(np.interp(_work(setting, workload), work, values)) / nominal)
        found.append(
            replace(row, subject=setting.key, value=value, p10=None, p90=None, samples=0, method=INTERPOLATED)
        )
    return found


def _work(setting: Setting, workload: Workload) -> float:
    T = num_tokens(setting, workload)
    S = workload.num_keys if setting.context.causal else T
    flops = part_cost(setting.slot, setting.spec, setting.context, T, S, workload.bytes_per_value).flops
    return float(flops + T * setting.context.d_model)
