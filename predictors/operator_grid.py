"""Every operator setting that a space can use, and how each is timed.

A setting is one operator with its hyperparameters at a width, on a token grid, with a projection kind and number
formats. Its place in the network and the placement of its norm do not affect its time and are not part of it. Operators
that rotate queries and keys are timed with the rotary positions of the space.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from predictors.interpolation import PAIR, OperatorRow
from predictors.network_bench import (
    check_phase,
    dtype_of,
    reference_call,
    runnable,
    stem_inputs,
    to_measurements,
    train_step,
)
from predictors.onnx_graphs import Graphs
from predictors.runtimes import EAGER, ONNXRUNTIME
from predictors.timing import Call, num_threads, time_interleaved
from searchspace import registry
from searchspace.cost import part_cost
from searchspace.model import parts
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.quantized_linear import why_simulated
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import (
    DENSE,
    NONE,
    ONNX_INT8,
    ArchSpec,
    BlockSpec,
    Format,
    OpSpec,
    QuantPolicy,
    StageSpec,
)
from searchspace.spec.genome import STATE, Encoding, quant_policy
from searchspace.spec.measurement import Measurement
from searchspace.spec.space import BlockSpace, Slot, SpaceSpec, StageSpace
from searchspace.spec.workload import Workload
from searchspace.validity import why_op_invalid

ENUMERABLE = 20_000  # settings; larger spaces are represented by the settings of random architectures
RANDOM_ARCHITECTURES = 300
POOL_SEED = 40_000


@dataclass(frozen=True)
class Setting:
    """One operator as it is timed; `position` is NONE where the operator takes no rotary positions."""

    slot: str
    spec: OpSpec
    context: BuildContext
    position: OpSpec = NONE

    @cached_property
    def key(self) -> str:
        """A line of text that identifies the setting, equal in every run."""
        c = self.context
        tokens = (
            f"grid={c.layout.grid[0]}x{c.layout.grid[1]}" if c.layout.grid else f"max_len={c.layout.max_len}"
        )
        more = {
            "to": c.d_next or "",
            "causal": "" if c.causal else "no",
            "projection": "" if c.projection == DENSE else c.projection,
            **{f"{role}_format": fmt.name for role, fmt in c.quant.roles},
            "state_format": "" if c.quant.state == Format() else c.quant.state.name,
            "position": "" if self.position == NONE else self.position,
        }
        facts = [f"d_model={c.d_model}", tokens] + [f"{n}={v}" for n, v in more.items() if v]
        return f"{self.slot} {self.spec} {' '.join(facts)}"


def part_settings(
    slot: str, spec: OpSpec | BlockSpec, context: BuildContext, position: OpSpec
) -> Counter[Setting]:
    """Return the settings that one part of a model runs, with their counts."""
    if not isinstance(spec, BlockSpec):
        return Counter([_setting(slot, spec, context, position)])
    found: Counter[Setting] = Counter()
    num_norms = 0 if spec.norm == NONE else {"peri": 2, "parallel": 0}.get(spec.placement, 1)
    for name in ("mixer", "ffn"):
        op = getattr(spec, name)
        if op != NONE:
            found[_setting(name, op, context, position)] += 1
            if num_norms:
                found[_setting("norm", spec.norm, context, position)] += num_norms
    if spec.placement == "parallel" and spec.norm != NONE and spec.is_active:
        found[_setting("norm", spec.norm, context, position)] += 1
    return found


def _setting(slot: str, spec: OpSpec, context: BuildContext, position: OpSpec) -> Setting:
    """The setting without anything that does not affect what runs."""
    entry = registry.operator(slot, spec.op)
    quant = QuantPolicy(
        tuple((role, f) for role, f in context.quant.roles if role in entry.quantizable),
        context.quant.state if slot == "mixer" else QuantPolicy().state,
    )
    projection = context.projection if slot in ("mixer", "ffn") else DENSE
    context = replace(context, layer=0, num_layers=1, repeats=1, projection=projection, quant=quant)
    context = replace(context, keeps_first=False)  # none of these affect the time of a call
    return Setting(slot, spec, context, position if entry.rope else NONE)


def settings(space: SpaceSpec) -> list[Setting]:
    """Return every setting of the space once, in a fixed order."""
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
    for projection, slot in product(specs(block.projection), ("mixer", "ffn", "norm")):
        for spec in specs(getattr(block, slot)):
            for quant in _policies(block, slot, spec.op):
                here = replace(context, projection=projection, quant=quant)
                if spec != NONE and why_op_invalid(slot, spec, here) is None:
                    yield _setting(slot, spec, here, position)


def _policies(block: BlockSpace, slot: str, op: str) -> Iterator[QuantPolicy]:
    """Every combination of number formats for one operator of the block."""
    decisions = [d for _, d in block.quant if op in {"mixer": d.mixers, "ffn": d.ffns, "norm": ()}[slot]]
    for chosen in product(*(d.formats.values for d in decisions)):
        yield quant_policy(zip(decisions, map(str, chosen), strict=True))


def _skeletons(space: SpaceSpec) -> Iterator[ArchSpec]:
    """Architectures with every combination of width, position, final norm and transitions, and placeholder blocks."""
    ends = product(space.d_model.values, specs(space.position), specs(space.final_norm))
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
    except AssertionError:  # a transition that needs a grid which is missing here
        return None
    fits = all(
        isinstance(spec, BlockSpec) or why_op_invalid(slot, spec, context) is None
        for _, slot, spec, context in places
    )
    return arch if fits else None


def _stage_options(stage: StageSpace) -> list[tuple[Any, OpSpec, OpSpec]]:
    return list(product(stage.width_ratio.values, specs(stage.enter), specs(stage.leave)))


def specs(slot: Slot) -> list[OpSpec]:
    """Return every candidate with every combination of its values."""
    found = []
    for candidate in slot.candidates:
        domains = [
            [(name, v) for v in (specs(d) if isinstance(d, Slot) else d.values)]
            for name, d in candidate.items
        ]
        found += [OpSpec(candidate.op, items) for items in product(*domains)]
    return found


# measuring


def chosen_settings(space: SpaceSpec, workload: Workload, limit: int) -> list[Setting]:
    """Return all settings of the space if at most `limit`, else a subset that covers every value of every item."""
    if _num_settings(space) <= ENUMERABLE:
        pool = settings(space)
    else:
        draws = valid_architectures(Encoding(space), np.random.default_rng(POOL_SEED), workload)
        found: dict[Setting, None] = {}
        for _, arch in islice(draws, RANDOM_ARCHITECTURES):
            for _, slot, spec, context in parts(arch):
                found.update(dict.fromkeys(part_settings(slot, spec, context, arch.position)))
        pool = list(found)
    return pool if len(pool) <= limit else covering(pool, limit)


def covering(pool: Sequence[Setting], limit: int) -> list[Setting]:
    """Return about `limit` settings, equally many per operator: first those with an unseen value, then others.

    Returns more than `limit` where the operators have more values than that.
    """
    by_operator: dict[tuple[str, str], list[Setting]] = defaultdict(list)
    for setting in sorted(pool, key=lambda s: s.key):
        by_operator[setting.slot, setting.spec.op].append(setting)
    quota, found = max(1, limit // len(by_operator)), []
    for here in by_operator.values():
        random.Random(POOL_SEED).shuffle(here)
        seen: set[tuple[str, str]] = set()
        first: list[Setting] = []
        rest: list[Setting] = []
        for setting in here:
            values = set(PAIR.findall(setting.key))
            (rest if values <= seen else first).append(setting)
            seen |= values
        found += first + rest[: max(0, quota - len(first))]
    return found


def _num_settings(space: SpaceSpec) -> int:
    """About how many settings the space has for one width of its stages, without enumerating them."""

    def of_slot(slot: Slot) -> int:
        return sum(
            prod(of_slot(d) if isinstance(d, Slot) else len(d.values) for _, d in c.items)
            for c in slot.candidates
        )

    def of_block(b: BlockSpace) -> int:
        mixer = prod(len(d.formats.values) for _, d in b.quant if d.mixers)
        ffn = prod(len(d.formats.values) for _, d in b.quant if d.ffns)
        settings_of_slots = of_slot(b.mixer) * mixer + of_slot(b.ffn) * ffn + of_slot(b.norm)
        return of_slot(b.projection) * settings_of_slots

    blocks = {block for stage in space.stages for block in stage.blocks}
    return len(space.d_model.values) * sum(map(of_block, blocks))


def measure_settings(
    wanted: Sequence[Setting],
    workload: Workload,
    device: str = "cpu",
    *,
    nominal_ms: float | None = None,
    samples: int = 40,
    seconds: float = 25.0,
    threads: int = 1,
    seed: int = 0,
    runtime: str = EAGER,
    graphs: Path | None = None,
    on_setting: Callable[[Setting], None] | None = None,
    on_all_run: Callable[[], None] = lambda: None,
) -> tuple[list[Measurement], dict[str, str]]:
    """Return (one latency for each setting that ran, reasons by key for those that could not be run).

    `on_setting` is called before each setting's first run, which is when a crash would happen; `on_all_run` is called
    after all first runs, from when on a crash is not the fault of the last setting. `graphs` is the folder that caches
    onnxruntime's graphs.
    """

    def maker(setting: Setting) -> Call:
        if on_setting is not None:
            on_setting(setting)
        return operator_call(setting, workload, device)

    makers: dict[str, Callable[[], Call]] = {s.key: partial(maker, s) for s in wanted}
    idle: dict[str, str] = {}
    with num_threads(threads):
        if runtime == ONNXRUNTIME:
            from predictors import onnxruntime_bench as bench

            makers, idle = bench.setting_makers(wanted, workload, threads, Graphs(graphs), on_setting)
        calls, failures = runnable(makers)
        on_all_run()
        timings = (
            time_interleaved(
                calls, reference_call(device), device=device, samples=samples, seconds=seconds, seed=seed
            )
            if calls
            else {}
        )
    if idle:
        timings = bench.without_idle(timings, idle)
    return to_measurements(timings, workload, device, threads, nominal_ms, seed, runtime), failures


def operator_row(setting: Setting, workload: Workload) -> OperatorRow:
    """Return the FLOPs of a setting and the bytes that it moves: weights, state, activations in and out."""
    T = num_tokens(setting, workload)
    S = workload.num_keys if setting.context.causal else T
    found = part_cost(setting.slot, setting.spec, setting.context, T, S, workload.bytes_per_value)
    in_and_out = 2 * T * setting.context.d_model * workload.bytes_per_value
    moved = found.weight_bytes + workload.batch_size * (found.state_bytes + in_and_out)
    return OperatorRow(setting.key, float(found.flops * workload.batch_size), float(moved), workload)


def operator_call(setting: Setting, workload: Workload, device: str) -> Call:
    """Return a call of the operator on random activations, with the state of the phase, ready to be timed.

    Raises ValueError for a phase or number format that cannot be timed on this device.
    """
    slot, context = setting.slot, setting.context
    check_phase(workload, context.causal)
    reason = why_not_timed(context.quant, workload, device)
    if reason is not None:
        raise ValueError(reason)
    dtype = dtype_of(workload)
    with torch.device("meta") if device == "meta" else nullcontext():  # avoids initializing weights
        module: Any = registry.build(slot, setting.spec, context)
    module = module.to(device, dtype).eval()
    before = workload.context_len if workload.phase == "decode" else 0
    T = num_tokens(setting, workload)
    if slot == "stem":
        inputs, nothing = stem_inputs(setting.spec, workload, T, device), Tokens()
        call: Call = partial(module, inputs, nothing, before)
        return train_step(call, list(module.parameters())) if workload.phase == "train" else call
    x, tokens = activations(setting, workload, before, T, device)
    lender = registry.operator(slot, setting.spec.op).lender(setting.spec)
    if lender is not None:
        tokens = _lent(replace(setting, spec=lender), workload, before, x, tokens)
    call = partial(module, x, tokens, *((None,) if slot in ("mixer", "ffn") else ()))
    if workload.phase == "train":
        return train_step(call, [x.requires_grad_(), *module.parameters()])
    if workload.phase == "forward" or slot not in ("mixer", "ffn") or not hasattr(module, "init_state"):
        return call
    state = module.init_state(workload.batch_size, torch.device(device), dtype)
    if before:
        with torch.inference_mode():
            _, state = module(*activations(setting, workload, 0, before, device), state)
    return lambda: module(x, tokens, state)


def _lent(lender: Setting, workload: Workload, before: int, x: torch.Tensor, tokens: Tokens) -> Tokens:
    """Tokens with what an earlier mixer lends; when decoding, that mixer has a state of `before` tokens."""
    module: Any = registry.build(lender.slot, lender.spec, lender.context).to(x.device, x.dtype).eval()
    tokens = tokens.replace(shared={})
    with torch.no_grad():
        state = None
        if before:
            state = module.init_state(workload.batch_size, x.device, x.dtype)
            _, state = module(*activations(lender, workload, 0, before, str(x.device)), state)
        module(x, tokens, state)
    return tokens


def why_not_timed(quant: QuantPolicy, workload: Workload, device: str, runtime: str = EAGER) -> str | None:
    """Return why a policy has no latency of its own in this runtime on this device; None where it has."""
    if quant.is_native:
        return None
    if runtime == ONNXRUNTIME:
        named = dict.fromkeys(f.name for _, f in (*quant.roles, (STATE, quant.state)) if f != Format())
        strange = [name for name in named if name != ONNX_INT8]
        return (
            f"onnxruntime has no kernel for {strange[0]}; {ONNX_INT8} or native would do" if strange else None
        )
    if workload.phase == "train":
        return "formats are for inference: a workload of phase train has none"
    if quant.state != Format() and workload.phase != "forward":
        return (
            f"a state as {quant.state.name} has no kernel on {device}, so its latency would be simulated; "
            "native would do"
        )
    rows = workload.batch_size * workload.num_queries
    reasons = (why_simulated(fmt, device, rows) for _, fmt in quant.roles)
    return next((reason for reason in reasons if reason), None)


def num_tokens(setting: Setting, workload: Workload) -> int:
    """Return the number of tokens of one sequence that the operator computes; that of the grid where there is one."""
    layout = setting.context.layout
    return -(-workload.num_queries // layout.stride) if setting.context.causal else layout.max_len


def activations(
    setting: Setting, workload: Workload, start: int, T: int, device: str
) -> tuple[torch.Tensor, Tokens]:
    """Return random x [B, T, D] and the facts of its tokens, which are at positions `start` and after."""
    context = setting.context
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(workload.batch_size, T, context.d_model, generator=generator)
    x = x.to(device, dtype_of(workload))
    tokens = Tokens(positions=torch.arange(start, start + T, device=device), grid=context.layout.grid)
    if setting.position != NONE:
        _, tokens = registry.build("position", setting.position, context).to(device)(x, tokens)
    if setting.slot == "head" and setting.spec.get("vocab_size"):  # some heads use the stem's embedding
        rows = torch.randn(setting.spec["vocab_size"], context.d_model, generator=generator)
        tokens = tokens.replace(embedding=rows.to(device, dtype_of(workload)))
    return x, tokens
