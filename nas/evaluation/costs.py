"""What follows from an architecture alone, in the units of QUANTITIES."""

from __future__ import annotations

from nas.evaluation.quantities import ESTIMATE, QUANTITIES
from nas.request.recipe import Recipe
from predictors.rates import Rates
from predictors.roofline import estimate_ms
from searchspace.cost import cost
from searchspace.spec.arch import ArchSpec


def cost_of(name: str, arch: ArchSpec, recipe: Recipe) -> float:
    """Of a quantity whose source is cost, for the recipe's workload and peak rates."""
    if name == ESTIMATE:
        return estimate_ms(arch, recipe.workload, Rates.of(recipe.rates))
    quantity = QUANTITIES[name]
    found: float = getattr(cost(arch, recipe.workload), quantity.cost) / quantity.scale
    return found
