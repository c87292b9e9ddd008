"""How projections are built alone."""

from typing import Any

from searchspace import registry
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext
from searchspace.spec.arch import OpSpec


def projection(op: str, out: int, inp: int, role: str = "up", **items: Any) -> Any:
    sizes = Axis.of(F=out), Axis.of(D=inp)
    return registry.build("projection", OpSpec.of(op, **items), BuildContext(inp), role, *sizes).double()
