"""Chooses the runtime that a study's latencies refer to, and checks that it can run the space's operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from nas.errors import UsageError
from nas.home import home
from nas.request.recipe import Recipe
from nas.request.schema import AUTO
from predictors.runtimes import EAGER, default_runtime, why_not
from searchspace.spec.arch import DENSE, NONE, ONNX_INT8
from searchspace.spec.space import MAPS, BlockSpace, Choice, QuantSpace, SpaceSpec
from studies.records import Objective, Study

MOST_SETTINGS = 1000  # operator settings of a space that are checked


def with_runtime(goals: Sequence[Objective], recipe: Recipe, task: str, device: str) -> tuple[Objective, ...]:
    """The objectives, with the chosen runtime set on the predicted ones.

    Raises UsageError for a requested runtime that can't time this workload on this device, or that no objective uses.
    """
    predicted = [o for o in goals if o.source == "predicted"]
    if recipe.runtime != AUTO:
        reason = why_not(recipe.runtime, device, recipe.workload)
        if reason is None and not predicted:
            reason = "no objective depends on a runtime; add latency to --objectives"
        if reason is not None:
            raise UsageError(f"--runtime {recipe.runtime}: {reason}")
    chosen = recipe.runtime if recipe.runtime != AUTO else default_runtime(task, device, recipe.workload)
    return tuple(replace(o, runtime=chosen) if o in predicted else o for o in goals)


def with_int8(space: SpaceSpec) -> SpaceSpec:
    """The space of an imported model, where each block may have its linear maps in native numbers or in int8_onnx.

    A search has to beat onnxruntime's int8 quantization, which users get with one call. A space that declares number
    formats itself is unchanged; `[blocks.quant] maps = ["native"]` offers only native numbers.
    """
    if _has_formats(space):
        return space
    return _with_blocks(space, _block_with_int8)


def _block_with_int8(block: BlockSpace) -> BlockSpace:
    if [c.op for c in block.projection.candidates] != [DENSE.op]:
        return block
    mixers, ffns = ([c.op for c in slot.candidates if c.op != NONE.op] for slot in (block.mixer, block.ffn))
    decision = QuantSpace(MAPS, Choice(("native", ONNX_INT8)), tuple(mixers), tuple(ffns))
    return replace(block, quant=(("maps", decision),)) if mixers or ffns else block


def without_int8(study: Study, given: SpaceSpec) -> Study:
    """The planned study without the formats that `with_int8` added; unchanged if the user's space `given` has some."""
    space = SpaceSpec.from_json(study.space)
    if _has_formats(given) or not _has_formats(space):
        return study
    return replace(study, space=_with_blocks(space, lambda block: replace(block, quant=())).to_json())


def _has_formats(space: SpaceSpec) -> bool:
    return any(block.quant for stage in space.stages for block in stage.blocks)


def _with_blocks(space: SpaceSpec, change: Callable[[BlockSpace], BlockSpace]) -> SpaceSpec:
    stages = (replace(stage, blocks=tuple(map(change, stage.blocks))) for stage in space.stages)
    return replace(space, stages=tuple(stages))


def in_runtime(study: Study, space: SpaceSpec) -> Study:
    """The planned study, switched to eager if its default runtime can't run all operators of the space.

    Raises UsageError if the runtime was requested explicitly and can't run them.
    """
    if study.runtime == EAGER:
        return study
    recipe = Recipe.from_json(study.settings.recipe)
    reason = why_not_all(study, space, recipe)
    if reason is None:
        return study
    if recipe.runtime != AUTO:
        raise UsageError(f"--runtime {study.runtime}: {reason}")
    goals = tuple(replace(o, runtime=EAGER) if o.runtime else o for o in study.objectives)
    settings = replace(study.settings, why_eager=reason)
    return without_int8(replace(study, objectives=goals, settings=settings), space)


def why_not_all(study: Study, space: SpaceSpec, recipe: Recipe) -> str | None:
    """A sentence on why the study's runtime can't run some operator of the space; None if it can run all."""
    if study.runtime == EAGER:
        return None
    from predictors.onnxruntime_bench import why_not_run
    from predictors.operator_grid import chosen_settings
    from predictors.profiling import graphs_folder

    wanted = chosen_settings(space, recipe.workload, MOST_SETTINGS)
    return why_not_run(wanted, recipe.workload, graphs_folder(home() / "profiles" / "any"))
