"""An operator computes on its input's device: a tensor created elsewhere is an error or a copy in every step.

Tested on `meta`, the device without storage, so that no other device is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract


class MadeOnCpu(TorchDispatchMode):
    """Records in `operations` every operation that returns a tensor on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(isinstance(t, Tensor) and t.device.type == "cpu" for t in tree_leaves(found)):
            self.operations.append(str(func))
        return found


@contract(when=lambda case: case.slot != "stem")  # stems take ids or images, not activations
def computes_on_the_device_of_its_input(case: Case) -> None:
    """Raises AssertionError where the operator fails on `meta` or creates a tensor on the CPU in its second run."""
    module, T = case.on_meta(), 16
    x = torch.empty(cases.BATCH, T, cases.D, device="meta")
    facts = cases.tokens(case, T, device="meta")
    try:
        cases.run(case, module, x, facts)  # the first run creates the constants of a device
        with MadeOnCpu() as made:
            cases.run(case, module, x, facts)
    except (NotImplementedError, RuntimeError) as error:
        raise AssertionError(f"on another device than the CPU: {str(error).splitlines()[0]}") from error
    assert not made.operations, f"makes tensors on the CPU in each run, first by {made.operations[0]}"
