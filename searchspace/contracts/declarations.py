"""Every operator declares its tensors and costs, and refuses in a sentence what it can't do."""

from __future__ import annotations

import torch

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract, once
from searchspace.cost import part_cost
from searchspace.model import Model, parts
from searchspace.primitives.axes import declared_tensors
from searchspace.primitives.context import BuildContext, Layout
from searchspace.registry import build
from searchspace.validity import why_invalid, why_op_invalid

FEW = 40  # settings per operator that are tried in every context
ODD = [
    BuildContext(7, causal=True, layout=Layout(5)),
    BuildContext(7, causal=False, layout=Layout(5), d_next=9),
    BuildContext(20, causal=False, layout=Layout(15, (3, 5)), d_next=20),
    BuildContext(20, causal=True, layout=Layout(16, (4, 4)), d_next=6),
]


@contract()
def what_is_declared_is_what_is_built_and_nothing_else(case: Case) -> None:
    module = case.on_meta()
    held = {n: t.shape for n, t in [*module.named_parameters(), *module.named_buffers()]}
    declared = dict(declared_tensors(module))
    for name in held.keys() | declared.keys():
        said = torch.Size(declared[name].shape) if name in declared else None
        assert held.get(name) == said, f"{name} is declared as {said} and built as {held.get(name)}"
    trained = {name for name, _ in module.named_parameters()}
    for name, what in declared.items():
        assert (name in trained) == (what.role == "parameter"), f"{name} is declared as a {what.role}"
    assert set(module.state_dict()) == set(declared), "the state dict lacks a declared tensor"


@contract()
def counted_parameters_are_the_parameters(case: Case) -> None:
    arch = cases.network(case)
    reason = why_invalid(arch)
    assert reason is None, f"a small network with it is refused: {reason}"
    model = Model(arch)
    for name, slot, spec, context in parts(arch):
        counted, part = part_cost(slot, spec, context.anywhere, 64, 64, 4), model.part(name)
        held = sum(p.numel() for p in part.parameters())
        assert counted.parameters == held, f"{name} has {held} parameters, {counted.parameters} are counted"
        held = 4 * sum(t.numel() for t in part.state_dict().values())
        assert counted.weight_bytes == held, f"{name} has {held} bytes, {counted.weight_bytes} are counted"


@contract("mixer")
def what_needs_calibration_declares_it_and_calibrates_the_same_each_time(case: Case) -> None:
    module = build(case.slot, case.spec, case.context)
    calibrated = {name for name, d in declared_tensors(module) if d.role == "calibrated"}
    if case.entry.calibrate is None:
        assert not calibrated, (
            f"{', '.join(calibrated)} are declared as calibrated by an entry without calibrate"
        )
        return
    assert calibrated, "the entry has calibrate, but nothing is declared as calibrated"
    seen, results = [cases.inputs(case, 16), cases.inputs(case, 7)], []
    before = {n: t.clone() for n, t in module.state_dict().items()}
    for _ in range(2):
        case.entry.calibrate(module, seen)
        results.append({n: t.clone() for n, t in module.state_dict().items()})
    for name in before:
        assert torch.equal(results[0][name], results[1][name]), (
            f"calibrating twice gives two different {name}"
        )
    changed = {n for n in before if not torch.equal(before[n], results[0][n])}
    assert changed == calibrated, f"calibrate changes {sorted(changed)}, calibrated are {sorted(calibrated)}"


@contract(when=once)
def settings_build_or_say_why_not(case: Case) -> None:
    for spec in cases.settings(case.slot, case.spec.op, FEW):
        for context in (case.context, *ODD):
            builds_or_says_why_not(Case(case.slot, spec, context))


def builds_or_says_why_not(case: Case) -> None:
    reason = why_op_invalid(case.slot, case.spec, case.context)
    if reason is None:
        case.on_meta()
        return
    assert case.spec.op in reason, f"the refusal {reason!r} does not name {case.spec.op}"
    assert " " in reason, f"the refusal {reason!r} is no sentence"


@contract(when=once)
def the_entry_names_its_paper(case: Case) -> None:
    assert case.entry.paper, "the entry names no paper"


@contract("mixer", causal=True)
@torch.no_grad()
def an_operator_that_takes_rotary_positions_says_so(case: Case) -> None:
    """Rotating queries and keys must change the output exactly where the entry declares it."""
    module, (x, facts) = case.build(), cases.inputs(case, 9)
    turned, plain = (cases.run(case, module, x, f) for f in (facts, facts.replace(rotary=None)))
    changes = not torch.equal(turned, plain)
    said = case.entry.turns(case.spec)
    assert changes == said, f"rope is {said}, but rotary positions say {changes}"
