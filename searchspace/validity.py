"""Why an architecture can't or must not be built: one sentence, or None where it is valid."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

from searchspace import registry
from searchspace.cost import cost
from searchspace.model import contexts, has_way_back, parts
from searchspace.primitives.context import BuildContext
from searchspace.primitives.state_size import keeps_rows
from searchspace.registry import Nested
from searchspace.spec.arch import FOR_STATES_ALONE, NONE, STATE_FORMATS, ArchSpec, BlockSpec, Format, OpSpec
from searchspace.spec.space import Constraint
from searchspace.spec.workload import Workload


def why_invalid(arch: ArchSpec) -> str | None:
    """Return the first reason found, with its place; None where the architecture builds and runs."""
    if not any(block.is_active for block in arch.blocks):
        return "every block is none: there is nothing to search"
    width = arch.d_model
    for index, stage in enumerate(arch.stages):
        if stage.enter == NONE and stage.d_model != width:
            return f"stage {index}: going from width {width} to {stage.d_model} needs a transition"
        if has_way_back(stage.enter) and stage.leave != NONE:
            return f"stage {index}: {stage.enter.op} has a way back of its own, so leave must be none"
        if stage.leave == NONE and not has_way_back(stage.enter):
            width = stage.d_model
    try:
        places = parts(arch)
    except AssertionError:
        return "a transition needs a 2-D grid of tokens"
    for name, slot, spec, context in places:
        reason = why_part_invalid(slot, spec, context.anywhere)
        if reason is not None:
            return f"{name}: {reason}"
    return _too_few_tokens(arch) or _unfit_for_rotary(arch) or _lacks_a_lender(arch)


def _too_few_tokens(arch: ArchSpec) -> str | None:
    """Where the head gives an output per token, no token may be dropped."""
    ends = [(i, op.op) for i, s in enumerate(arch.stages) for op in (s.enter, s.leave) if op != NONE]
    is_pooled = arch.task not in ("causal_lm", "masked_lm") and arch.head.get("pooling") != "none"
    if not ends or is_pooled:
        return None
    places = contexts(arch)
    before, after = (places[name].layout.max_len for name in ("stem", "head"))
    if before == after:
        return None
    index, name = ends[-1]
    return f"stage {index}: {name} leaves {after} of {before} tokens, and {arch.head.op} answers for each of them"


def _unfit_for_rotary(arch: ArchSpec) -> str | None:
    for i, block in enumerate(arch.blocks):
        entry = registry.operator("mixer", block.mixer.op)
        if not entry.turns(block.mixer):
            continue
        if block.mixer.get("rotary") == "local" and not arch.position.get("local_base"):
            return f"blocks.{i}: rotary = 'local' takes the local_base of rope, and the network has none"
        name, dim = entry.rotary_width, arch.position.get("dim")
        if dim is None:
            continue
        width = block.mixer[name]
        if width > dim:
            return f"blocks.{i}: {name} {width} is wider than the {dim} rotary channels"
        if width % 2:
            return f"blocks.{i}: {name} {width} must be even, since rotary positions turn pairs of channels"
    return None


def _lacks_a_lender(arch: ArchSpec) -> str | None:
    """Where a mixer borrows what no earlier block of its stage leaves, or has a format for a state that it lacks."""
    start = 0
    for stage in arch.stages:
        lent: set[Hashable] = set()
        for i, block in enumerate(arch.blocks[start : start + stage.num_blocks], start):
            entry = registry.operator("mixer", block.mixer.op)
            lender = entry.lender(block.mixer)
            if lender is not None and registry.operator("mixer", lender.op).lends(lender) not in lent:
                return f"blocks.{i}: no block before it in its stage has the keys that it borrows, as {lender} would"
            if lender is not None and block.quant.state != Format():
                return f"blocks.{i}: it borrows, so it keeps no state to store as {block.quant.state.name}"
            lent.add(entry.lends(block.mixer))
        start += stage.num_blocks
    return None


@lru_cache(1 << 17)
def why_part_invalid(slot: str, spec: OpSpec | BlockSpec, context: BuildContext) -> str | None:
    if not isinstance(spec, BlockSpec):
        return why_op_invalid(slot, spec, context)
    for name in ("mixer", "ffn", "norm", "projection"):
        reason = why_op_invalid(name, getattr(spec, name), context)
        if reason is not None:
            return reason
    return _why_formats_invalid(spec)


def _why_formats_invalid(spec: BlockSpec) -> str | None:
    if spec.quant.roles and spec.projection.op != "dense":
        return f"formats are for dense projections, got {spec.projection.op}"
    for role, fmt in spec.quant.roles:
        if fmt.name in FOR_STATES_ALONE:
            return f"{role}: {fmt.name} is a format of states, not of weights"
    state, entry = spec.quant.state, registry.operator("mixer", spec.mixer.op)
    if state == Format():
        return None
    if not keeps_rows(entry.state_bytes):
        return f"{entry.name} keeps no rows of tokens that could be stored as {state.name}: its state stays native"
    if state.name not in STATE_FORMATS:
        return f"a state can't be stored as {state.name}; known: {', '.join(STATE_FORMATS)}"
    if state.name.startswith("zip") and not hasattr(entry.build, "importance"):
        return f"{entry.name} counts no attention, by which {state.name} stores; int8 and int4 would do"
    return None


def why_op_invalid(slot: str, spec: OpSpec, context: BuildContext) -> str | None:
    """Apply the checks of every operator, then the operator's own. Returns a reason or None."""
    try:
        entry = registry.operator(slot, spec.op)
    except ValueError as error:
        return str(error)
    known, given = set(entry.choices), {name for name, _ in spec.items}
    if known - given:
        return f"{spec.op} lacks {', '.join(sorted(known - given))}"
    strange = given - entry.items
    if strange:
        return f"{spec.op} has no item {', '.join(sorted(strange))}; it has: {', '.join(sorted(known)) or 'none'}"
    for name, value in spec.items:
        reason = entry.why_not(name, value)
        if reason is not None:
            return reason
    if context.causal and not entry.causal:
        return f"{spec.op} can't be causal"
    if not context.causal and not entry.bidirectional:
        return f"{spec.op} can't be bidirectional"
    if entry.needs_2d and not context.causal and context.layout.grid is None:
        return f"{spec.op}: a bidirectional network needs a 2-D grid of tokens"
    for name, domain in entry.choices.items():
        if isinstance(domain, Nested):
            reason = why_op_invalid(domain.slot, spec[name], context)
            if reason is not None:
                return f"{spec.op}: {reason}"
    return entry.why_invalid(spec, context)


def violations(arch: ArchSpec, constraints: Sequence[Constraint], workload: Workload) -> dict[str, float]:
    """Return how far each bound on a cost is missed; empty where all hold. Builds nothing."""
    if not constraints:
        return {}
    found = cost(arch, workload)
    amounts = {c.quantity: c.violation(getattr(found, c.quantity)) for c in constraints}
    return {quantity: amount for quantity, amount in amounts.items() if amount > 0}
