"""Exhaustive tests: every setting of an operator, with the contracts that are cheap enough."""

import pytest

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.declarations import ODD, builds_or_says_why_not
from searchspace.contracts.reference import assert_equals_reference
from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator

COMPARED, BUILT = 400, 2000  # largest number of settings of an operator


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "context"), cases.exhaustive("mixer", "ffn", "norm", "projection"))
def test_every_setting_equals_its_reference(entry: Operator, context: BuildContext):
    for spec in cases.settings(entry.slot, entry.name, COMPARED):
        case = Case(entry.slot, spec, context)
        if entry.why_invalid(spec, context) is None:
            assert_equals_reference(case, case.build(), *cases.inputs(case, 18))


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "context"), cases.exhaustive())
def test_every_setting_builds_or_says_why_not(entry: Operator, context: BuildContext):
    for spec in cases.settings(entry.slot, entry.name, BUILT):
        for where in (context, *ODD):
            builds_or_says_why_not(Case(entry.slot, spec, where))
