"""`nas spaces check`: statistics of a space that need no training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.importing.load import ARCH, SOURCE, SPACE
from nas.machine import num_cores
from nas.request.recipe import Recipe, load_recipe
from nas.setup.plan import named_space
from nas.training.sandwich import Sandwich
from predictors.work import work
from searchspace.cost import cost
from searchspace.designs import members
from searchspace.sampling import Tally, valid_architectures
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid

NUM_SAMPLES, NUM_DRAWS = 500, 4000
NUM_TIMED = 3
CLIMBING_SHARE = (
    0.2  # mean training of a trial as a share of a whole one, if half of the trials at each rung are promoted
)


def check(source: str) -> dict[str, Any]:
    """Size, valid share, cost ranges over random architectures, and estimated search time in seconds on this machine.

    `source` is a space's name, a TOML file, or the folder of an imported model, whose space uses the model's data. The
    estimate times a few training steps and forward passes; it includes neither profiling nor timing of finalists.
    Raises UsageError with the commonest reasons if none of NUM_DRAWS random architectures is valid.
    """
    model = _model_of(source)
    space = named_space(str(model / SPACE) if model else source)
    recipe = load_recipe(space) if model is None else Recipe(space=source, model=str(model))
    encoding, tally = Encoding(space), Tally()
    draws = valid_architectures(encoding, np.random.default_rng(0), recipe.workload, tally, NUM_DRAWS)
    archs = [arch for _, arch in islice(draws, NUM_SAMPLES)]
    if not archs:
        raise UsageError(
            f"space {space.name}: none of {NUM_DRAWS} random architectures is valid; {tally.reasons()}"
        )
    costs = [cost(arch, recipe.workload) for arch in archs]
    ends = Sandwich(space, num_random=0, seed=0)
    report: dict[str, Any] = {
        "space": space.name,
        "task": space.task,
        "genes": len(encoding),
        "architectures": encoding.size(),
        "valid_ratio": tally.valid / tally.drawn,
        "refused_for": dict(tally.refused.most_common(3)),
        "distinct": f"{len({arch.id for arch in archs})} of {len(archs)}",
        "largest_parameters": cost(ends.largest, recipe.workload).parameters,
        "smallest_parameters": cost(ends.smallest, recipe.workload).parameters,
    }
    for name in ("parameters", "active_parameters", "flops", "weight_bytes", "state_bytes"):
        values = [getattr(c, name) for c in costs]
        report[name] = [min(values), max(values)]
    if space.task == "causal_lm":
        longer = _longer(recipe.workload)
        added = [cost(a, longer).state_bytes - c.state_bytes for a, c in zip(archs, costs, strict=True)]
        report["state_bytes_of_one_more_token"] = [min(added), max(added)]
    if encoding.size() == 1:
        report["blocks"] = ", ".join(f"{b.mixer.op} + {b.ffn.op}" for b in archs[0].blocks)
    elif model is None:
        report["published_designs"] = ", ".join(members(encoding, why_invalid)) or "none"
    report["work_of_the_largest"] = vars(work(ends.largest, recipe.workload))
    settled = recipe.settled()
    if settled.quality == "train":
        report["estimated_seconds"] = _of_trainings(space, settled, archs[:NUM_TIMED])
    else:
        report["estimated_seconds"] = _of_supernet(space, settled)
    return report


def _longer(workload: Workload) -> Workload:
    """The workload with one more token of sequence or, for decoding, of context."""
    name = "context_len" if workload.phase == "decode" else "seq_len"
    return replace(workload, **{name: getattr(workload, name) + 1})


def _model_of(source: str) -> Path | None:
    """The folder of an imported model that `source` is, or whose space.toml it names; None otherwise."""
    path = Path(source)
    folder = path.parent if path.name == SPACE else path
    return folder if source and all((folder / name).is_file() for name in (ARCH, SOURCE, SPACE)) else None


def _of_trainings(space: SpaceSpec, recipe: Recipe, archs: Sequence[ArchSpec]) -> dict[str, float]:
    """Seconds of `one_training` of a random network, and of `searching`: all trials, shared among the cores.

    With an imported model a training is a recovery, timed from random weights of the same shapes.
    """
    from nas.content import task_of
    from nas.importing.load import imported
    from nas.setup.fitting import fitted
    from nas.training.alone import Training
    from nas.training.recovery import Recovery, recovery_settings
    from searchspace.supernet.supernet import Supernet

    task = task_of(recipe, space)
    recipe = fitted(recipe, space, task, "cpu")
    settings, recovery = recipe.alone, None
    if recipe.model:
        settings = recovery_settings(recipe.alone, recipe.recovery_steps)
        model = imported(recipe.model)
        recovery = Recovery(Supernet(space), model.arch, model.model, task, settings, "")
    seconds = []
    for arch in archs:
        training = Training(arch, task, settings, recovery=recovery)
        training.run(1)
        start = time.perf_counter()
        training.run(1 + NUM_TIMED)
        seconds.append((time.perf_counter() - start) / NUM_TIMED * settings.steps)
    one = sum(seconds) / len(seconds)
    share = CLIMBING_SHARE if recipe.ladder else 1.0
    return {"one_training": one, "searching": one * share * recipe.trials / num_cores()}


def _of_supernet(space: SpaceSpec, recipe: Recipe) -> dict[str, float]:
    from nas.content import task_of
    from nas.evaluation.inherited import InheritedQuality
    from nas.training.supernet_trainer import SupernetTrainer
    from searchspace.supernet.supernet import Supernet

    task = task_of(recipe, space)
    training, steps = 0.0, recipe.shared_steps if recipe.model else recipe.training.steps
    if steps:
        with TemporaryDirectory() as folder:
            trainer = SupernetTrainer(space, task, recipe.training, Path(folder))
            trainer.step()
            start = time.perf_counter()
            for _ in range(NUM_TIMED):
                trainer.step()
            training = (time.perf_counter() - start) / NUM_TIMED * steps
    judged = InheritedQuality.of(Supernet(space), task, recipe.validation_examples, recipe.batch_size)
    biggest = Sandwich(space, num_random=0, seed=0).largest
    start = time.perf_counter()
    for _ in range(NUM_TIMED):
        judged(biggest)
    return {"training": training, "searching": (time.perf_counter() - start) / NUM_TIMED * recipe.trials}
