"""Every option of a search, and of going on with one: what may be given, in which form, and where.

The class says where an option may be given: those of `RecipeKeys` and `SearchOptions` everywhere, those of
`LocalRecipeKeys`, `Running` and `SearchRequest` only where the search runs, since they name files and processes of that
machine, those of `ServiceSearch` only at the service. `RecipeKeys` and `LocalRecipeKeys` are keys of a recipe, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.request.options import (
    MOST_STEPS,
    MOST_TRIALS,
    MOST_WORKERS,
    Anything,
    Bounds,
    Kept,
    Minutes,
    Objectives,
    Real,
    Request,
    StudyName,
    Switch,
    Text,
    Texts,
    Whole,
    key,
    option,
)
from predictors.runtimes import RUNTIMES
from searchspace.spec.space import SpaceSpec
from studies.records import Objective

if TYPE_CHECKING:
    from nas.api import Hooks
    from nas.execution.outcome import Evaluate
    from nas.request.recipe import Recipe
    from nas.selection import Selection
    from nas.setup.preparation import OnStep

AUTO = "auto"
QUALITIES = (AUTO, "supernet", "train", "proxy")
DEVICES = ("cpu", "cuda")
KERNELS = ("torch", "triton", "auto")
BY_KERNELS = (
    "on a CUDA device: what operators run by, torch, triton, or auto, the faster by the device's table"
)
RUNNERS = ("local", "pool", "ray", "workers")
TIME: tuple[Any, ...] = (
    "stop after this many minutes; on the command line 90s, 30m, 2h30m, 1d",
    Minutes(),
)
PERMITS = "functions of your own that the study is judged by, module:function, which may be imported here"
DB = "database; default $NAS_DB or sqlite:///nas.db"
ON_EVENT = "called with the study whenever it has changed"
AS_TIME: dict[str, Any] = {"flags": ("--time",), "metavar": "30m"}


@dataclass(frozen=True, kw_only=True)
class RecipeKeys:
    """RecipeKeys of a recipe that every search may be given; the defaults suit a small study on two cores."""

    searcher: str = key("guided", "how to search; default the recipe's", Text(), metavar="NAME")
    trials: int = key(160, "architectures to evaluate", Whole(1, MOST_TRIALS))
    minutes: float | None = key(None, *TIME, **AS_TIME)
    seed: int = key(0, "decides every architecture that is tried", Whole())
    lag: int = key(
        4,
        "trials that may still run when the next one is proposed, which does without their results; "
        "default the recipe's, and at least twice --workers",
        Whole(1, MOST_TRIALS),
    )
    quality: str = key(
        "auto",
        "how quality is judged: train (each network alone), supernet (inherited weights), proxy, or auto: train "
        "where the searcher decides how far each is trained, supernet elsewhere and for an imported model",
        Text(QUALITIES),
        metavar="NAME",
    )
    metric: Sequence[str] = key(
        (),
        "metrics that networks are judged by, objectives in place of the recipe's loss or beside --objectives: loss, "
        "accuracy, exact_match, kl and cosine to the original, pearson and spearman of pairs with scores; on your own "
        "machine also module:function, of (outputs, labels), with :minimize behind it where less is better",
        Texts(),
        metavar="a,b",
    )
    ladder: Sequence[str] = key(
        (),
        "with --searcher guided or halving: cheaper judgements that decide who gets that of --quality, cheapest "
        "first: proxy (halving only), supernet, and eighth, quarter, half of the training",
        Texts(),
        metavar="a,b",
    )
    runtime: str = key(
        AUTO,
        "what latency is of: eager, onnxruntime, or auto, which is onnxruntime for encoders and images where it is "
        "installed",
        Text((AUTO, *RUNTIMES)),
        metavar="NAME",
    )
    servable: bool = key(
        False,
        "search only networks that the plain Llama of transformers expresses, equal layers of which some are left out, "
        "so that each of the front can be extracted with --format transformers",
        Switch(),
    )
    gate_anyway: bool = key(
        False,
        "with --ladder proxy: let the proxy decide also where it is not known to rank networks better than size",
        Switch(),
    )


@dataclass(frozen=True, kw_only=True)
class LocalRecipeKeys(RecipeKeys):
    """Those that name files."""

    data: str = key(
        "",
        "your own text file or folder; rows (.jsonl, .csv, .tsv, .parquet, a folder of datasets) of text, prompt "
        "and completion, text and label, or sentence1, sentence2 and score; or plays, digits, mnist; with --model also "
        "images; default the space's",
        Text(),
        metavar="PATH",
        right="plays, digits, mnist, or the path of your text",
    )
    model: str = key(
        "",
        "a model brought in by `nas import`: its weights are the supernet, its space.toml the default space",
        Text(),
        metavar="DIR",
        right="the folder of an imported model",
    )
    recovery_steps: int = key(
        0,
        "with --model: train its sub-networks together for N steps before the search; default 0",
        Whole(0, MOST_STEPS),
        metavar="N",
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Request, RecipeKeys):
    """What every search may be given."""

    study: str = option(
        "", "name of the study; default the space's", StudyName(), body="name", is_needed=True
    )
    objectives: Sequence[str | Objective] | None = option(
        None,
        "quantities to improve, first the most important; one may state its device and workload, as in "
        "latency@cpu:decode,b=1,ctx=4096",
        Objectives(),
        metavar="a,b",
    )
    bounds: Mapping[str, tuple[float | None, float | None]] = option(
        {},
        "bounds on quantities; repeatable",
        Bounds(),
        flags=("--min", "--max"),
        metavar="q=v",
    )
    keep: Mapping[str, Sequence[int | str]] = option(
        {},
        "choices of the space that are kept, by kind (mixer, ffn, norm, d_model, depth, placement); the others are "
        "not searched; repeatable",
        Kept(),
        metavar="kind=a,b",
    )
    training_steps: int | None = option(
        None,
        "training steps of the supernet, or of each network where they are trained one by one; default the recipe's",
        Whole(1, MOST_STEPS),
        metavar="N",
    )
    device: str = option(
        "cpu", "what networks are trained, judged and timed on: cpu or cuda", Text(DEVICES), metavar="NAME"
    )
    kernels: str = option("torch", f"{BY_KERNELS}; default torch", Text(KERNELS), metavar="NAME")
    warm_start: str = option(
        "",
        "with --searcher guided: learn from an earlier study on the same space with the same objectives",
        StudyName(),
        metavar="STUDY",
    )


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where and by what the trials of a study are evaluated."""

    db: str = option("", DB, Text(), metavar="URL")
    runner: str = option(
        "",
        "local: this process; pool: several; ray: a Ray cluster; workers: whatever `nas worker` processes there are; "
        "default by the objectives",
        Text(("", *RUNNERS)),
        metavar="NAME",
    )
    workers: int = option(
        0,
        "processes of --runner pool or actors of --runner ray; default all there is room for",
        Whole(0, MOST_WORKERS),
    )
    address: str = option(
        "", "the cluster of --runner ray; default a new one here", Text(), metavar="HOST:PORT"
    )
    gpus_per_worker: float = option(
        0.0, "GPUs each actor of --runner ray needs", Real(0, MOST_WORKERS), metavar="0.25"
    )
    evaluate: Evaluate | None = option(
        None, "your own judge of an architecture, as {objective: value}", Anything(), flags=()
    )
    hooks: Hooks | None = option(None, "what a display wants to hear of", Anything(), flags=())


@dataclass(frozen=True, kw_only=True)
class SearchRequest(SearchOptions, Running, LocalRecipeKeys):
    """A search of this machine, as command line and `nas.search` take it."""

    space: str | SpaceSpec | None = option(None, "a built-in space or a TOML file", Anything())
    target: str = option(
        "",
        "predict latency for another device: the folder that `nas profile` wrote there, or its name",
        Text(),
        metavar="PROFILE",
    )
    recipe: Recipe | str | None = option(None, "all settings, from a file", Anything(), metavar="TOML")


@dataclass(frozen=True, kw_only=True)
class ServiceSearch(SearchOptions):
    """A search that the service queues for its workers."""

    space: str = option(..., "the name of a space that the service knows", Text(), is_needed=True)
    priority: int = option(
        0, "studies of a higher one come first, of equal ones the oldest", Whole(-1000, 1000)
    )
    on_event: Callable[[dict[str, Any]], None] | None = option(None, ON_EVENT, Anything(), body="")


@dataclass(frozen=True)
class ResumeOptions(Request):
    """What going on with a study may always be given."""

    study: str = option(..., "its name, as `nas studies` lists it", StudyName(), flags=(), body="")
    _: KW_ONLY
    trials: int = option(
        0,
        "evaluate N more than the study was to have",
        Whole(0, MOST_TRIALS),
        metavar="+N",
        body="more_trials",
    )
    minutes: float | None = option(None, *TIME, **AS_TIME)


@dataclass(frozen=True, kw_only=True)
class ResumeRequest(ResumeOptions, Running):
    """Going on with a study on this machine, as command line and `nas.resume` take it."""

    metric: Sequence[str] = option((), PERMITS, Texts(), metavar="a,b")


@dataclass(frozen=True, kw_only=True)
class ServiceResume(ResumeOptions):
    """Going on with a study by the service's workers."""

    on_event: Callable[[dict[str, Any]], None] | None = option(None, ON_EVENT, Anything(), body="")


FORMATS = (
    "a further form of it in the folder, proven equal and timed: onnx, onnx-int8, torch-export, or transformers "
    "or gguf where every block is a Llama's; may be repeated"
)


@dataclass(frozen=True)
class ExtractOptions(Request):
    """What cutting a network out of a study may always be given."""

    study: str = option(..., "its name, as `nas studies` lists it", StudyName(), flags=(), body="")
    out: str | Path = option(..., "the folder to write", Anything(), flags=(), body="")
    _: KW_ONLY
    select: Selection | None = option(
        None,
        "which network, a `nas.extraction.Selection`; default the knee of the front",
        Anything(),
        flags=(),
        body="",
    )
    overwrite: bool = option(False, "replace what is there", Switch(), body="")
    formats: Sequence[str] = option((), FORMATS, Texts(is_repeated=True), flags=("--format",), metavar="NAME")
    finetune: int = option(
        0,
        "train it on for this number of steps, with the largest network of the supernet as teacher",
        Whole(0, MOST_STEPS),
        metavar="STEPS",
    )
    kernels: str = option("", f"{BY_KERNELS}; default the study's", Text(("", *KERNELS)), metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(ExtractOptions):
    """An extraction on this machine, as command line and `nas.extract` take it."""

    db: str = option("", DB, Text(), metavar="URL")
    on_step: OnStep | None = option(None, "called with each step of a training", Anything(), flags=())


@dataclass(frozen=True, kw_only=True)
class ServiceExtract(ExtractOptions):
    """An extraction on the service's machine."""
