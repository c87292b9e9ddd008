"""How long the networks of an imported model recover and on how much they are judged: as much as the time allows.

Both follow from the model's size, the device and the study's time, by counting, so that they are the same wherever the
study is planned. What was given stays as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nas.request.recipe import Recipe
from predictors.rates import FLOPS_PER_SECOND
from searchspace.spec.arch import ArchSpec
from searchspace.spec.workload import Workload

if TYPE_CHECKING:
    from nas.tasks.base import Task

SECONDS = 30.0  # of one recovery, where the study has no time limit
SHARE = 1 / 20  # of the time limit, for one recovery
JUDGING = 1 / 4  # of a recovery, for the held-out examples
FEWEST_STEPS, MOST_STEPS = 16, 1000
FEWEST_EXAMPLES = 16
SAMPLE = 32


def fitted(recipe: Recipe, task: Task, device: str) -> Recipe:
    """The recipe with its recovery steps, their batch size and the number of held-out examples.

    Only of a study whose networks recover by themselves.
    """
    if not recipe.model or recipe.quality != "train":
        return recipe
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
