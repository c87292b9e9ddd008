"""Grouped heads of recurrences whose values may be wider than their keys, with several values per key.

    v_proj [G K, D]     or, where a setting has `expand_v` or `values_per_key`,     wide_v_proj [G M E K, D]

E = expand_v makes a value E key dims wide: V = E K. M = values_per_key gives each key M values, hence M states, each
with its own strength and decay, all read by the R queries of the key's group (Qwen3-Next: R = 1, M = 2). A setting with
neither has E = M = 1 and shares the tensors of other grouped-head mixers; a setting with either has separate tensors
with the prefix `wide_`, since their axes differ. Shapes: G groups of keys, M values of a key, R queries of a group, K
key dim, V = E K value dim.
"""

from __future__ import annotations

from typing import Any

from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext
from searchspace.primitives.heads import GroupedHeads
from searchspace.registry import Range
from searchspace.spec.arch import OpSpec

EXPAND_V = Range(1, 16)
VALUES_PER_KEY = Range(1, 64)


class WideHeads(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        given = spec.get("expand_v"), spec.get("values_per_key")
        self.E, self.M = (1 if n is None else n for n in given)
        self.V, self.prefix = self.E * self.K, "" if given == (None, None) else "wide_"
        sizes = {"G": self.G, "M": self.M, "R": self.R, "E": self.E, "K": self.K}
        self.d_model = Axis.of(D=context.d_model)
        self.states = self._axis(sizes, "G", "GM")
        self.values = self._axis(sizes, "GK", "GMEK")
        self.reads = self._axis(sizes, "GRK", "GMREK")
        self.width = self._axis(sizes, "K", "EK")
        if self.prefix:
            del self.v_proj, self.o_proj
            self.wide_v_proj = context.linear("v", self.values, self.d_model)
            self.wide_o_proj = context.linear("o", self.d_model, self.reads)

    def _axis(self, sizes: dict[str, int], narrow: str, wide: str) -> Axis:
        return Axis.of(**{name: sizes[name] for name in (wide if self.prefix else narrow)})

    def named(self, name: str) -> str:
        """Return the name of a tensor or part with value axes."""
        return self.prefix + name

    def own(self, name: str) -> Any:
        """Return the tensor or part of that name."""
        return getattr(self, self.named(name))
