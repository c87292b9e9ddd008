"""Derives training lengths from the time limit of a study.

For an imported model these are the recovery steps of its networks, their batch size and the number of held-out
examples; for a user's own space the training steps of each network. They are computed from sizes, the kind of device
and the time limit, never timed, so that every machine plans the same study. Steps that were given are kept.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from nas.request.recipe import Recipe
from nas.request.sizes import example_length
from predictors.rates import FLOPS_PER_SECOND, Rates
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload

if TYPE_CHECKING:
    from nas.tasks.base import Task

SECONDS = 30.0  # for one recovery, if the study has no time limit
SHARE = 1 / 20  # of the time limit, for one recovery or the training of a plain network of median cost
JUDGING = 1 / 4  # of the FLOPs of a recovery, for evaluating the held-out examples
FEWEST_STEPS, MOST_STEPS = 16, 1000
FEWEST_EXAMPLES = 16
SAMPLE = 32
FEWEST_TRAINED, MOST_TRAINED = 100, 4000  # steps from random weights
# Measured over estimated time of a step: between 1 and 5 on two cores that both train.
OVER_COUNTED = 2.0
BACKWARD = 3  # cost of a forward and a backward pass, in forward passes
WARM_UP = 20  # warm-up takes at most 1 / WARM_UP of the steps


def fitted(recipe: Recipe, space: SpaceSpec, task: Task, device: str) -> Recipe:
    """The recipe with as many training steps as fit its time limit; unchanged unless networks are trained alone."""
    if recipe.quality != "train":
        return recipe
    if recipe.model:
        return _recovering(recipe, task, device)
    return _trained(recipe, space) if recipe.fits_time and recipe.minutes and device == "cpu" else recipe


def _trained(recipe: Recipe, space: SpaceSpec) -> Recipe:
    """The recipe with the steps that train a plain network of median cost in SHARE of the time limit."""
    from predictors.roofline import estimate_ms
    from searchspace.plain import plain_family
    from searchspace.spec.genome import Encoding
    from searchspace.validity import why_invalid

    encoding, alone, rates = Encoding(space), recipe.alone, Rates.of(recipe.rates)
    step = Workload("forward", alone.batch_size, example_length(space.stem))
    plain = [encoding.decode(g) for g in plain_family(encoding, why_invalid, recipe.workload)]
    if not plain or recipe.minutes is None:
        return recipe
    seconds = OVER_COUNTED * BACKWARD * median(estimate_ms(arch, step, rates) for arch in plain) / 1000
    steps = round(recipe.minutes * 60 * SHARE / seconds, -1)
    steps = int(max(FEWEST_TRAINED, min(MOST_TRAINED, steps)))
    warm_up = min(alone.warmup_steps, steps // WARM_UP)
    return replace(recipe, alone=replace(alone, steps=steps, warmup_steps=warm_up))


def _recovering(recipe: Recipe, task: Task, device: str) -> Recipe:
    """The recipe with recovery steps, their batch size and the number of held-out examples that fit the time limit."""
    from nas.importing.load import imported

    seconds = SECONDS if recipe.minutes is None else recipe.minutes * 60 * SHARE
    budget = seconds * FLOPS_PER_SECOND[device]
    example = flops_of_example(imported(recipe.model).arch, task)
    alone, steps = recipe.alone, recipe.recovery_steps
    if not steps:
        room = int(budget / (3 * example * FEWEST_STEPS))
        alone = replace(alone, batch_size=max(1, min(alone.batch_size, room)))
        steps = int(budget / (3 * example * alone.batch_size))
        steps = max(FEWEST_STEPS, min(MOST_STEPS, steps))
    examples = max(FEWEST_EXAMPLES, int(JUDGING * budget / example))
    return replace(
        recipe,
        recovery_steps=steps,
        alone=alone,
        validation_examples=min(recipe.validation_examples, examples),
    )


def flops_of_example(arch: ArchSpec, task: Task) -> float:
    """FLOPs of a forward pass of a network on one held-out example of mean length."""
    from searchspace.cost import cost
    from searchspace.model import contexts

    inputs = [batch.inputs for batch in task.validation(SAMPLE, SAMPLE // 4)]
    longest = contexts(arch)["stem"].layout.max_len
    if inputs[0].dim() != 2:  # an image has as many tokens as the network takes
        return float(cost(arch, Workload("forward", 1, longest)).flops)
    length = sum(i.shape[1] for i in inputs) / len(inputs)
    counted = longest if not arch.is_causal else max(1, round(length))
    return cost(arch, Workload("forward", 1, counted)).flops * length / counted
