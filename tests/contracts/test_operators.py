"""Every operator fulfills every contract of its slot, in each of its quick settings."""

import pytest

from searchspace.contracts.cases import Case
from searchspace.contracts.check import contracts
from searchspace.contracts.contract import Contract

ALL = [(contract, case) for contract in contracts() for case in contract.cases()]


@pytest.mark.parametrize(("contract", "case"), ALL)
def test_operator_keeps_its_contract(contract: Contract, case: Case):
    contract(case)
