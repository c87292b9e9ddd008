"""How long networks are trained: as long as the time of their study allows.

Of an imported model: for how many steps its networks recover, and on how much they are judged. Of a space of its
user's: for how many steps each network is trained. All of it follows from sizes, the device and the study's time, by
counting, so that it is the same wherever the study is planned. What was given stays as it is.
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

SECONDS = 30.0  # of one recovery, where the study has no time limit
SHARE = 1 / 20  # of the time limit, for one recovery, or for the training of a plain network of middle cost
JUDGING = 1 / 4  # of a recovery, for the held-out examples
FEWEST_STEPS, MOST_STEPS = 16, 1000
FEWEST_EXAMPLES = 16
SAMPLE = 32
FEWEST_TRAINED, MOST_TRAINED = 100, 4000  # steps from random weights
# What a step takes beyond what is counted: between 1 and 5 times on two cores that both train.
OVER_COUNTED = 2.0
BACKWARD = 3  # a forward and a backward pass, in forward passes
WARM_UP = 20  # at most one step in so many, where steps are few


def fitted(recipe: Recipe, space: SpaceSpec, task: Task, device: str) -> Recipe:
    """The recipe with as many steps as fit its time; of a study whose networks are trained by themselves."""
    if recipe.quality != "train":
        return recipe
    if recipe.model:
        return _recovering(recipe, task, device)
    return _trained(recipe, space) if recipe.fits_time and recipe.minutes and device == "cpu" else recipe


def _trained(recipe: Recipe, space: SpaceSpec) -> Recipe:
    """With the steps by which a plain network of middle cost is trained in SHARE of the time."""
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
    """With its recovery steps, their batch size and the number of held-out examples."""
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
    """Of a forward pass of a network on one held-out example, of the mean length."""
    from searchspace.cost import cost
    from searchspace.model import contexts

    inputs = [batch.inputs for batch in task.validation(SAMPLE, SAMPLE // 4)]
    longest = contexts(arch)["stem"].layout.max_len
    if inputs[0].dim() != 2:  # an image has as many tokens as the network takes
        return float(cost(arch, Workload("forward", 1, longest)).flops)
    length = sum(i.shape[1] for i in inputs) / len(inputs)
    counted = longest if not arch.is_causal else max(1, round(length))
    return cost(arch, Workload("forward", 1, counted)).flops * length / counted
