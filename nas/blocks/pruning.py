"""Prunes a trained network to a budget with four methods and compares the results.

nvit       repeatedly removes the structure with the least importance per unit of saved cost, over all layers; the
           importance is measured again after each quarter of the way (Yang et al., "NViT", arXiv:2110.04869). The
           original subtracts the saved latency with a hand-set weight, and trains between the cuts
optin      in one shot, without gradients: the k best heads of all layers and the best FFN units that the budget then
           allows, for the k with the largest total importance (Khaki and Plataniotis, "OPTIN", arXiv:2403.17921)
magnitude  like nvit in one round, with squared weights as importance
uniform    keeps an equal share of every sublayer, those with the largest weights
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.blocks.importance import Importance, hessian, magnitude, trajectory
from nas.blocks.structures import Structures, cut, full, lowest, sized, structures
from nas.errors import UsageError
from nas.evaluation.inherited import quality
from nas.export.folder import check_alone, write_folder
from nas.files import replace_folder
from nas.importing.load import copy_tokenizer
from nas.linearize.source import Source
from nas.setup.preparation import OnStep, Step
from nas.tasks.base import Batch
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec

CostOf = Callable[[ArchSpec], float]
Score = Callable[[Model, Sequence[Structures], Sequence[Batch]], Importance]
ROUNDS = 4
EXAMPLES, BATCH_SIZE = 256, 64
BATCHES, CALIBRATION_SIZE = 8, 16
SHARES = 128


@dataclass(frozen=True)
class Pruned:
    method: str
    model: Model
    cost: float
    numbers: dict[str, float]


def compare(
    source: Source, methods: Sequence[str], cost_of: CostOf, budget: float, name: str, on_step: OnStep
) -> list[Pruned]:
    """The network itself, then its pruned form by each method.

    Raises UsageError for a budget that even the smallest network exceeds, and for a model with repeated blocks.
    """
    whole, found = source.model, structures(source.model)
    if any(stage.repeats > 1 for stage in whole.arch.stages):
        raise UsageError(
            "MODEL: its blocks run several times with shared weights, and such a model can't be pruned"
        )
    smallest = cost_of(sized(whole.arch, found, {s.name: s.kept(0) for s in found}))
    if budget < smallest:
        raise UsageError(
            f"--max {name}={budget:g}: give at least {smallest:,.6g} (of {cost_of(whole.arch):,.6g}), the value if "
            "each sublayer keeps one group of heads or FFN units"
        )
    validation = source.task.validation(EXAMPLES, BATCH_SIZE)
    batches = [source.task.batch(i, CALIBRATION_SIZE, 0) for i in range(BATCHES)]
    done = [Pruned("as it was", whole, cost_of(whole.arch), quality(whole, validation))]
    for i, method in enumerate(methods):
        on_step(Step("pruning", i, len(methods), method))
        model = METHODS[method](whole, cost_of, budget, batches)
        done.append(Pruned(method, model, cost_of(model.arch), quality(model, validation)))
    on_step(Step("pruning", len(methods), len(methods)))
    return done


def nvit(model: Model, cost_of: CostOf, budget: float, batches: Sequence[Batch]) -> Model:
    return _greedy_rounds(model, hessian, cost_of, budget, batches, ROUNDS)


def by_magnitude(model: Model, cost_of: CostOf, budget: float, batches: Sequence[Batch]) -> Model:
    return _greedy_rounds(model, magnitude, cost_of, budget, batches, 1)


def _greedy_rounds(
    model: Model, score: Score, cost_of: CostOf, budget: float, batches: Sequence[Batch], rounds: int
) -> Model:
    start = cost_of(model.arch)
    for i in range(1, rounds + 1):
        found = structures(model)
        importance = score(model, found, batches)
        counts = greedy(model.arch, found, importance, cost_of, start + (budget - start) * i / rounds)
        model = cut(model, found, importance, counts)
    return model


def greedy(
    arch: ArchSpec, found: Sequence[Structures], importance: Importance, cost_of: CostOf, budget: float
) -> dict[str, int]:
    """The number of structures that each sublayer keeps; a sublayer's saving is recomputed after each of its steps."""
    counts, cost = full(found), cost_of(arch)
    worth: dict[str, float] = {}
    while cost > budget:
        for s in found:
            if s.name not in worth and counts[s.name] > s.kept(0):
                saved = cost - cost_of(sized(arch, found, counts | {s.name: s.kept(counts[s.name] - s.step)}))
                worth[s.name] = lowest(importance[s.name], counts[s.name], s.step) / max(saved, 1e-30)
        chosen = next((s for s in found if s.name == min(worth, key=worth.__getitem__, default="")), None)
        if chosen is None:
            break
        counts[chosen.name] = chosen.kept(counts[chosen.name] - chosen.step)
        del worth[chosen.name]
        cost = cost_of(sized(arch, found, counts))
    return counts


def optin(model: Model, cost_of: CostOf, budget: float, batches: Sequence[Batch]) -> Model:
    found = structures(model)
    importance = trajectory(model, found, batches)
    return cut(model, found, importance, knapsack(model.arch, found, importance, cost_of, budget))


def knapsack(
    arch: ArchSpec, found: Sequence[Structures], importance: Importance, cost_of: CostOf, budget: float
) -> dict[str, int]:
    """The numbers of structures with the largest total importance, over all numbers of heads with the most FFN units
    that then fit the budget."""
    heads, units = (
        _ranked([s for s in found if (s.item == "d_ff") == is_ffn], importance) for is_ffn in (False, True)
    )
    num_units = sum(s.item == "d_ff" for s in found)
    num_heads = len(found) - num_units
    best: tuple[float, dict[str, int]] | None = None
    for k in range(num_heads, len(heads) + 1):
        low, high = num_units - 1, len(units)
        while low < high:  # bisect the largest number of FFN steps that fits
            middle = (low + high + 1) // 2
            fits = cost_of(sized(arch, found, _counts(found, heads[:k] + units[:middle]))) <= budget
            low, high = (middle, high) if fits else (low, middle - 1)
        if low < num_units:
            break
        total = sum(value for value, _, _ in heads[:k] + units[:low])
        if best is None or total > best[0]:
            best = total, _counts(found, heads[:k] + units[:low])
    if best is None:
        return {s.name: s.kept(0) for s in found}
    return best[1]


_Step = tuple[float, str, int]


def _ranked(found: Sequence[Structures], importance: Importance) -> list[_Step]:
    """(importance, sublayer, number of structures) of each step: the best of each sublayer, then all others, sorted."""
    first: list[_Step] = []
    others: list[_Step] = []
    for s in found:
        step = s.kept(0)
        counts = [*range(step, s.size, step), s.size]
        before = 0
        for c in counts:
            value = lowest(importance[s.name], c, c - before)
            (others if before else first).append((value, s.name, c - before))
            before = c
    return first + sorted(others, key=lambda step: -step[0])


def _counts(found: Sequence[Structures], steps: Sequence[_Step]) -> dict[str, int]:
    counts = {s.name: 0 for s in found}
    for _, name, count in steps:
        counts[name] += count
    return counts


def uniform(model: Model, cost_of: CostOf, budget: float, batches: Sequence[Batch]) -> Model:
    found = structures(model)
    counts = full(found)
    for share in range(SHARES, -1, -1):
        counts = {s.name: s.kept(round(s.size * share / SHARES)) for s in found}
        if cost_of(sized(model.arch, found, counts)) <= budget:
            break
    return cut(model, found, magnitude(model, found, batches), counts)


METHODS: dict[str, Callable[[Model, CostOf, float, Sequence[Batch]], Model]] = {
    "nvit": nvit,
    "optin": optin,
    "magnitude": by_magnitude,
    "uniform": uniform,
}


def write(source: Source, done: Pruned, budget: str, out: Path, overwrite: bool = False) -> Path:
    """Write the pruned network as a folder that runs alone. Raises ArtifactError if it does not reproduce the loss."""
    validation = source.task.validation(EXAMPLES, BATCH_SIZE)
    about: dict[str, Any] = {
        "study": source.name,
        "from": f"pruned by {done.method} to {budget}",
        "task": source.task.name.removeprefix("masked "),
        "model": source.imported_from,
        "data": source.task.provenance,
        "data_id": source.task.content_id,
        "quality": "its own weights, those of the structures that stayed, not trained any further",
        "sources": {"loss": "held-out examples in validation.safetensors"},
    }
    with replace_folder(out, overwrite, sources=source.files) as folder, torch.no_grad():
        write_folder(folder, done.model, validation, done.numbers, about)
        if source.imported_from:
            copy_tokenizer(Path(source.imported_from), folder)
        check_alone(folder, done.numbers["loss"])
    return out
