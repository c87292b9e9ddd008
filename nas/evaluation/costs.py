"""Costs computed from an architecture alone, in the units of QUANTITIES, and latency predicted from a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from nas.evaluation.quantities import ESTIMATE, QUANTITIES
from nas.request.recipe import Recipe
from nas.request.sizes import example_length
from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable
from predictors.rates import Rates
from predictors.roofline import estimate_ms
from searchspace.cost import cost
from searchspace.spec.arch import ArchSpec
from searchspace.spec.workload import Workload
from studies.records import Objective


def cost_of(name: str, arch: ArchSpec, recipe: Recipe) -> float:
    """The value of a quantity with source "cost", in its unit, for the recipe's workload and peak rates."""
    if name == ESTIMATE:
        return estimate_ms(arch, recipe.workload, Rates.of(recipe.rates))
    quantity = QUANTITIES[name]
    found: float = getattr(cost(arch, recipe.workload), quantity.cost) / quantity.scale
    return found


def exact_losses(
    objectives: Sequence[Objective], recipe: Recipe, space: str, profile: Path | None
) -> Mapping[int, Callable[[ArchSpec], float]]:
    """Functions from an architecture to the losses that need no trial, by index of objective.

    These are costs and, with the folder of a `profile`, predicted latency in ms; the latency is nan if the profile
    lacks an operator of the network.
    """
    found: dict[int, Callable[[ArchSpec], float]] = {
        j: partial(_cost_loss, o, recipe) for j, o in enumerate(objectives) if o.source == "cost"
    }
    predicted = {j: o for j, o in enumerate(objectives) if o.source == "predicted"}
    if profile is not None and predicted:
        table = OperatorTable.of_profile(DeviceProfile.load(profile), space)
        found |= {j: partial(_predicted_loss, o, recipe, table) for j, o in predicted.items()}
    return found


def training_price(recipe: Recipe) -> Callable[[ArchSpec], float]:
    """About what a step of a network's own training costs beside that of others, in no unit.

    It is a forward call on a batch of whole sequences at the recipe's rates: counted and never timed, so that a study
    that goes on elsewhere weighs networks as before. nan where an operator can't be counted.
    """
    rates = Rates.of(recipe.rates)

    def price(arch: ArchSpec) -> float:
        step = Workload("forward", recipe.alone.batch_size, example_length(arch.stem))
        try:
            return estimate_ms(arch, step, rates)
        except ValueError:
            return float("nan")

    return price


def _cost_loss(objective: Objective, recipe: Recipe, arch: ArchSpec) -> float:
    return objective.loss(cost_of(objective.name, arch, recipe))


def _predicted_loss(objective: Objective, recipe: Recipe, table: OperatorTable, arch: ArchSpec) -> float:
    try:
        return objective.loss(table.latency(arch, recipe.workload).value_ms)
    except ValueError:
        return float("nan")
