"""Every operator declares what it holds, counts it, and says in a sentence what it can't do."""

from pathlib import Path

import pytest
import torch

from searchspace.cost import part_cost
from searchspace.model import Model, contexts, parts
from searchspace.primitives.axes import declared_tensors
from searchspace.primitives.context import BuildContext, Layout
from searchspace.registry import Operator, build
from searchspace.validity import why_invalid, why_op_invalid
from tests.contracts import cases
from tests.contracts.cases import Case

IDENTITY_TESTS = Path(__file__).parents[1] / "searchspace" / "ops"
QUICK, MANY = 40, 2000  # settings of one operator that the quick test and the exhaustive group go through


@pytest.mark.parametrize("case", cases.quick())
def test_what_is_declared_is_what_is_built_and_nothing_else(case: Case):
    module = case.on_meta()
    held = {n: t.shape for n, t in [*module.named_parameters(), *module.named_buffers()]}
    declared = dict(declared_tensors(module))
    assert held == {name: torch.Size(d.shape) for name, d in declared.items()}
    trained = {name for name, _ in module.named_parameters()}
    assert trained == {name for name, d in declared.items() if d.role == "parameter"}
    assert set(module.state_dict()) == set(declared)


@pytest.mark.parametrize("case", cases.quick())
def test_counted_parameters_are_the_parameters(case: Case):
    arch = cases.network(case)
    assert why_invalid(arch) is None
    model = Model(arch)
    for name, slot, spec, context in parts(arch):
        counted = part_cost(slot, spec, context.anywhere, 64, 64, 4)
        assert counted.parameters == sum(p.numel() for p in model.part(name).parameters())
        assert counted.weight_bytes == 4 * sum(t.numel() for t in model.part(name).state_dict().values())


@pytest.mark.parametrize("case", cases.quick("mixer"))
def test_what_needs_calibration_declares_it_and_calibrates_the_same_each_time(case: Case):
    module = build(case.slot, case.spec, case.context)
    calibrated = {name for name, d in declared_tensors(module) if d.role == "calibrated"}
    assert bool(calibrated) == (case.entry.calibrate is not None)
    if case.entry.calibrate is None:
        return
    seen, results = [cases.inputs(case, 16), cases.inputs(case, 7)], []
    before = {n: t.clone() for n, t in module.state_dict().items()}
    for _ in range(2):
        case.entry.calibrate(module, seen)
        results.append({n: t.clone() for n, t in module.state_dict().items()})
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    changed = {n for n in before if not torch.equal(before[n], results[0][n])}
    assert changed == calibrated


ODD = [
    BuildContext(7, causal=True, layout=Layout(5)),
    BuildContext(7, causal=False, layout=Layout(5), d_next=9),
    BuildContext(20, causal=False, layout=Layout(15, (3, 5)), d_next=20),
    BuildContext(20, causal=True, layout=Layout(16, (4, 4)), d_next=6),
]


@pytest.mark.parametrize("context", [cases.CAUSAL, cases.BIDIRECTIONAL, *ODD], ids=str)
def test_drawn_settings_build_or_say_why_not(context: BuildContext):
    for entry in cases.operators():
        for spec in cases.settings(entry.slot, entry.name, QUICK):
            builds_or_says_why_not(Case(entry.slot, spec, context))


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "context"), cases.exhaustive())
def test_every_setting_builds_or_says_why_not(entry: Operator, context: BuildContext):
    for spec in cases.settings(entry.slot, entry.name, MANY):
        for where in (context, *ODD):
            builds_or_says_why_not(Case(entry.slot, spec, where))


def builds_or_says_why_not(case: Case) -> None:
    reason = why_op_invalid(case.slot, case.spec, case.context)
    if reason is None:
        case.on_meta()
    else:
        assert case.spec.op in reason
        assert " " in reason


@pytest.mark.parametrize("entry", cases.operators(), ids=lambda e: f"{e.slot}-{e.name}")
def test_every_operator_names_its_paper_and_has_an_identity_test_of_its_own(entry: Operator):
    assert entry.paper
    assert (IDENTITY_TESTS / f"test_{entry.name}.py").is_file()


def test_an_operator_that_takes_rotary_positions_says_so():
    """Turning queries and keys must change the output exactly where the entry says so."""
    for case in cases.quick("mixer", causal=True):
        module, (x, facts) = case.build(), cases.inputs(case, 9)
        changes = not torch.equal(
            cases.run(case, module, x, facts), cases.run(case, module, x, facts.replace(rotary=None))
        )
        assert changes == case.entry.rope, case


def test_a_part_knows_its_place():
    """Contexts carry the width, layout and depth of each place, also past a transition."""
    case = next(c for c in cases.quick("transition") if c.spec.op == "q_pooling")
    found = contexts(cases.network(case))
    assert (found["blocks.0"].layout.grid, found["blocks.1"].layout.grid) == ((8, 8), (4, 4))
    assert (found["blocks.0"].d_model, found["blocks.1"].d_model) == (cases.D, case.context.d_next)
    assert [found[f"blocks.{i}"].layer for i in (0, 1)] == [0, 1]
