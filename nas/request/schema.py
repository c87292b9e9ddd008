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
from predictors.rates import FORM
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
RUNTIME: tuple[Any, ...] = (
    AUTO,
    "what latency is of: eager, onnxruntime, or auto, which is onnxruntime for encoders and images where it is "
    "installed",
    Text((AUTO, *RUNTIMES)),
)
OUT = "the folder to write"
OVERWRITE = "replace what is there"
IN_STUDIES = "its name, as `nas studies` lists it"
MIN_NETWORKS = 4  # of predictors.lookup, which is not loaded to read options
MOST_NETWORKS = 10_000
MOST_TOKENS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """What computes."""

    device: str = option(
        "cpu", "what networks are trained, judged and timed on: cpu or cuda", Text(DEVICES), metavar="NAME"
    )


@dataclass(frozen=True, kw_only=True)
class ByKernels:
    kernels: str = option("torch", f"{BY_KERNELS}; default torch", Text(KERNELS), metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class ByKernelsOfStudy:
    kernels: str = option("", f"{BY_KERNELS}; default the study's", Text(("", *KERNELS)), metavar="NAME")


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
        "how quality is judged: train (each network alone; of an imported model each recovers), supernet (inherited "
        "weights), proxy, or auto: train for an imported model and where the searcher decides how far each is trained, "
        "else supernet",
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
    runtime: str = key(*RUNTIME, metavar="NAME")
    rates: str = key(
        FORM,
        "what estimated_latency goes by: FLOPs and bytes in a second and the seconds of a call, as a data sheet of the "
        "device says or `nas predict rates` finds; default those of one core of a server",
        Text(),
        metavar="flops=F,bytes=B,call=S",
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
        "with --model: the steps in which a network recovers, with the model as its teacher; 0, the default, is as "
        "many as suit its size and --time. With --quality supernet all recover together before the search, by default "
        "in no step",
        Whole(0, MOST_STEPS),
        metavar="N",
    )
    floor: float | None = key(
        None,
        "with --model: the knee keeps this share of the model's own quality (accuracy, cosine of embeddings, or "
        "exp(-loss)); default 0.9, 0 for none",
        Real(0, 1),
        metavar="0.9",
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Request, OnDevice, ByKernels, RecipeKeys):
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
        "bounds on quantities, each in its unit (`nas front` names it); repeatable",
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

    study: str = option(..., IN_STUDIES, StudyName(), flags=(), body="")
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
    "a further form of it in the folder, proven equal and timed: onnx, onnx-int8, torch-export, aotinductor "
    "(compiled for this processor), or transformers or gguf where every block is a Llama's; may be repeated"
)


@dataclass(frozen=True)
class ExtractOptions(Request, ByKernelsOfStudy):
    """What cutting a network out of a study may always be given."""

    study: str = option(..., IN_STUDIES, StudyName(), flags=(), body="")
    out: str | Path = option(..., OUT, Anything(), flags=(), body="")
    _: KW_ONLY
    select: Selection | None = option(
        None,
        "which network, a `nas.extraction.Selection`; default the knee of the front",
        Anything(),
        flags=(),
        body="",
    )
    overwrite: bool = option(False, OVERWRITE, Switch(), body="")
    formats: Sequence[str] = option((), FORMATS, Texts(is_repeated=True), flags=("--format",), metavar="NAME")
    finetune: int = option(
        0,
        "train it on for this number of steps, with the largest network of the supernet as teacher",
        Whole(0, MOST_STEPS),
        metavar="STEPS",
    )


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(ExtractOptions):
    """An extraction on this machine, as command line and `nas.extract` take it."""

    db: str = option("", DB, Text(), metavar="URL")
    on_step: OnStep | None = option(
        None, "called with each `nas.setup.preparation.Step` of a training", Anything(), flags=()
    )


@dataclass(frozen=True, kw_only=True)
class ServiceExtract(ExtractOptions):
    """An extraction on the service's machine."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Request, ByKernelsOfStudy):
    """Training networks of a front by themselves."""

    study: str = option(..., IN_STUDIES, StudyName(), flags=())
    db: str = option("", DB, Text(), metavar="URL")
    networks: int = option(8, "how many of the front, evenly spread; default 8", Whole(1, 100_000))
    steps: int | None = option(None, "training steps; default the recipe's [alone]", Whole(1, MOST_STEPS))
    workers: int = option(0, "trainings at a time; default one for each core", Whole(0, MOST_WORKERS))
    address: str = option(
        "", "a Ray cluster, whose nodes share NAS_HOME; default this machine", Text(), metavar="HOST:PORT"
    )
    out: str = option("", "write the best as a folder that runs", Text(), metavar="DIR")
    overwrite: bool = option(False, OVERWRITE, Switch())


@dataclass(frozen=True, kw_only=True)
class TruthRequest(Request, OnDevice, ByKernels):
    """Training architectures of a space, each by itself."""

    space: str = option(..., "a built-in space or a TOML file", Text())
    count: int = option(96, "architectures, in groups of equal size; default 96", Whole(2, 1_000_000))
    out: str = option(..., "the folder of the table", Text(), metavar="DIR")
    design_seed: int = option(0, "chooses the architectures; another one adds a shard", Whole())
    recipe: str | None = option(None, "how they are trained: table [alone]", Text(), metavar="TOML")
    workers: int = option(0, "processes; default one for each core", Whole(0, MOST_WORKERS))


@dataclass(frozen=True, kw_only=True)
class TimingRequest(Request, OnDevice):
    """Timing networks of a space on this machine, doing one workload."""

    space: str = option("tiny-lm", "a built-in space or a TOML file; default tiny-lm", Text())
    networks: int = option(
        60,
        "networks that the prediction is fitted to; default 60",
        Whole(MIN_NETWORKS, MOST_NETWORKS),
        metavar="N",
    )
    runtime: str = option(*RUNTIME, metavar="NAME")
    threads: int = option(1, "CPU threads; default 1", Whole(1, MOST_WORKERS))
    phase: str = option(
        "forward",
        "forward: whole sequences; prefill: a prompt; decode: one token; train: a step; default forward",
        Text(("forward", "prefill", "decode", "train")),
        metavar="NAME",
    )
    batch_size: int = option(1, "sequences at a time; default 1", Whole(1, MOST_TOKENS))
    seq_len: int | None = option(None, "tokens; default what the space allows", Whole(1, MOST_TOKENS))
    context_len: int = option(0, "tokens before the one that is decoded; default 0", Whole(0, MOST_TOKENS))
    dtype: str = option(
        "float32",
        "numbers that it computes with: float32, bfloat16 or float16; default float32",
        Text(("float32", "bfloat16", "float16")),
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class ProfileRequest(TimingRequest, ByKernels):
    """Measuring this device, or adapting what is known of another."""

    samples: int | None = option(
        None, "adapt a known profile with K networks", Whole(MIN_NETWORKS, MOST_NETWORKS), metavar="K"
    )
    held_out: int = option(
        30, "others that its error is stated on; default 30", Whole(MIN_NETWORKS, MOST_NETWORKS), metavar="N"
    )
    seconds: float = option(
        25.0, "time for operator settings; the rest is interpolated; default 25", Real(most=1e6, above=0)
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(TimingRequest):
    """How good latency predictions are on networks of a space."""

    held_out: int = option(
        100, "others to predict; default 100", Whole(MIN_NETWORKS, MOST_NETWORKS), metavar="N"
    )
