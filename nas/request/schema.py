"""Every option of the commands and Python functions: name, default, help text and valid values.

The class of an option determines where it is offered: `RecipeKeys` and `SearchOptions` everywhere; `LocalRecipeKeys`,
`Running` and `SearchRequest` only on the machine that runs the search, because they name its files and processes;
`ServiceSearch` only at the service. `RecipeKeys` and `LocalRecipeKeys` are also keys of a recipe.
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
    "kernels on a CUDA device: torch, triton, or auto, which takes the faster one by the device's table"
)
RUNNERS = ("local", "pool", "ray", "workers")
TIME: tuple[Any, ...] = (
    "stop after this many minutes; on the command line 90s, 30m, 2h30m, 1d",
    Minutes(),
)
PERMITS = "metrics module:function of the study that this process may import"
DB = "database; default $NAS_DB or sqlite:///nas.db"
ON_EVENT = "called with the study whenever it has changed"
AS_TIME: dict[str, Any] = {"flags": ("--time",), "metavar": "30m"}
RUNTIME: tuple[Any, ...] = (
    AUTO,
    "runtime whose latency is predicted: eager, onnxruntime, or auto, which is onnxruntime for encoders and images if "
    "it is installed",
    Text((AUTO, *RUNTIMES)),
)
OUT = "the folder to write"
OVERWRITE = "replace what is there"
IN_STUDIES = "name of the study, as `nas studies` lists it"
MIN_NETWORKS = 4  # equals that of predictors.lookup, which parsing options should not import
MOST_NETWORKS = 10_000
MOST_TOKENS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """The device."""

    device: str = option(
        "cpu", "device to train, evaluate and time networks on: cpu or cuda", Text(DEVICES), metavar="NAME"
    )


@dataclass(frozen=True, kw_only=True)
class ByKernels:
    kernels: str = option("torch", f"{BY_KERNELS}; default torch", Text(KERNELS), metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class ByKernelsOfStudy:
    kernels: str = option("", f"{BY_KERNELS}; default the study's", Text(("", *KERNELS)), metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class RecipeKeys:
    """Recipe keys that every search takes as options; the defaults suit a small study on two cores."""

    searcher: str = key("guided", "search algorithm; default the recipe's", Text(), metavar="NAME")
    trials: int = key(160, "architectures to evaluate", Whole(1, MOST_TRIALS))
    minutes: float | None = key(None, *TIME, **AS_TIME)
    seed: int = key(0, "random seed of the search, which determines every proposed architecture", Whole())
    lag: int = key(
        4,
        "trials that may still be running when the next one is proposed, without their results; "
        "default the recipe's, and at least twice --workers",
        Whole(1, MOST_TRIALS),
    )
    quality: str = key(
        "auto",
        "how quality is measured: train (each network is trained alone, or recovers if cut from an imported model), "
        "supernet (with inherited weights), proxy, or auto: train for an imported model and for a searcher that "
        "decides how far each network is trained, else supernet",
        Text(QUALITIES),
        metavar="NAME",
    )
    metric: Sequence[str] = key(
        (),
        "quality metrics, objectives that replace the recipe's loss or are added to --objectives: loss, accuracy, "
        "exact_match, kl and cosine to the imported model, pearson and spearman for pairs with scores; on your own "
        "machine also module:function, called with (outputs, labels), followed by :minimize if lower is better",
        Texts(),
        metavar="a,b",
    )
    ladder: Sequence[str] = key(
        (),
        "with --searcher guided or halving: cheaper measurements, cheapest first, that select the networks measured "
        "by --quality: proxy (halving only), supernet, and eighth, quarter, half of the training",
        Texts(),
        metavar="a,b",
    )
    runtime: str = key(*RUNTIME, metavar="NAME")
    rates: str = key(
        FORM,
        "device rates for estimated_latency: FLOPs per second, bytes per second and seconds per operator call, from a "
        "data sheet or `nas predict rates`; default those of one server core",
        Text(),
        metavar="flops=F,bytes=B,call=S",
    )
    servable: bool = key(
        False,
        "search only networks that transformers' Llama can represent (equal layers, some of them left out), so that "
        "each network of the front can be extracted with --format transformers",
        Switch(),
    )
    gate_anyway: bool = key(
        False,
        "with --ladder proxy: use the proxy even if it is not known to rank networks better than their size does",
        Switch(),
    )


@dataclass(frozen=True, kw_only=True)
class LocalRecipeKeys(RecipeKeys):
    """Recipe keys that name files, or that only apply to an imported model."""

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
        "with --model: training steps in which each network recovers, with the model as its teacher; 0, the default, "
        "derives them from the model's size and --time. With --quality supernet all networks recover jointly before "
        "the search, by default for 0 steps",
        Whole(0, MOST_STEPS),
        metavar="N",
    )
    floor: float | None = key(
        None,
        "with --model: minimum share of the model's own quality (accuracy, cosine of embeddings, or exp(-loss)) that "
        "the knee keeps; default 0.9, 0 for none",
        Real(0, 1),
        metavar="0.9",
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Request, OnDevice, ByKernels, RecipeKeys):
    """Options of every search."""

    study: str = option(
        "", "name of the study; default the space's", StudyName(), body="name", is_needed=True
    )
    objectives: Sequence[str | Objective] | None = option(
        None,
        "quantities to improve, most important first; each may name its device and workload, as in "
        "latency@cpu:decode,b=1,ctx=4096",
        Objectives(),
        metavar="a,b",
    )
    bounds: Mapping[str, tuple[float | None, float | None]] = option(
        {},
        "bounds on quantities, each in the unit that `nas front` shows; repeatable",
        Bounds(),
        flags=("--min", "--max"),
        metavar="q=v",
    )
    keep: Mapping[str, Sequence[int | str]] = option(
        {},
        "search only these choices of a kind (mixer, ffn, norm, d_model, depth, placement) of the space; repeatable",
        Kept(),
        metavar="kind=a,b",
    )
    training_steps: int | None = option(
        None,
        "training steps of the supernet, or of each network if networks are trained alone; default the recipe's",
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
    """Options for where and how the trials of a study are evaluated."""

    db: str = option("", DB, Text(), metavar="URL")
    runner: str = option(
        "",
        "local: this process; pool: several processes; ray: a Ray cluster; workers: the running `nas worker` "
        "processes; default chosen by the objectives",
        Text(("", *RUNNERS)),
        metavar="NAME",
    )
    workers: int = option(
        0,
        "processes of --runner pool or actors of --runner ray; default as many as fit",
        Whole(0, MOST_WORKERS),
    )
    address: str = option(
        "", "address of the cluster of --runner ray; default a new local one", Text(), metavar="HOST:PORT"
    )
    gpus_per_worker: float = option(
        0.0, "GPUs each actor of --runner ray needs", Real(0, MOST_WORKERS), metavar="0.25"
    )
    evaluate: Evaluate | None = option(
        None, "your own function that maps an architecture to {objective: value}", Anything(), flags=()
    )
    hooks: Hooks | None = option(None, "callbacks for progress, a `nas.api.Hooks`", Anything(), flags=())


@dataclass(frozen=True, kw_only=True)
class SearchRequest(SearchOptions, Running, LocalRecipeKeys):
    """Options of `nas search` and of the Python function `nas.search`."""

    space: str | SpaceSpec | None = option(None, "a built-in space or a TOML file", Anything())
    target: str = option(
        "",
        "predict latency for another device: the profile folder that `nas profile` wrote there, or its name",
        Text(),
        metavar="PROFILE",
    )
    recipe: Recipe | str | None = option(None, "file with all settings", Anything(), metavar="TOML")


@dataclass(frozen=True, kw_only=True)
class ServiceSearch(SearchOptions):
    """A search that the service queues for its workers."""

    space: str = option(..., "the name of a space that the service knows", Text(), is_needed=True)
    priority: int = option(
        0, "workers take studies of higher priority first, older ones among equals", Whole(-1000, 1000)
    )
    on_event: Callable[[dict[str, Any]], None] | None = option(None, ON_EVENT, Anything(), body="")


@dataclass(frozen=True)
class ResumeOptions(Request):
    """Options of every resume of a study."""

    study: str = option(..., IN_STUDIES, StudyName(), flags=(), body="")
    _: KW_ONLY
    trials: int = option(
        0,
        "add N trials to the study's maximum",
        Whole(0, MOST_TRIALS),
        metavar="+N",
        body="more_trials",
    )
    minutes: float | None = option(None, *TIME, **AS_TIME)


@dataclass(frozen=True, kw_only=True)
class ResumeRequest(ResumeOptions, Running):
    """Options of `nas resume` and of the Python function `nas.resume`."""

    metric: Sequence[str] = option((), PERMITS, Texts(), metavar="a,b")


@dataclass(frozen=True, kw_only=True)
class ServiceResume(ResumeOptions):
    """Options for resuming a study with the service's workers."""

    on_event: Callable[[dict[str, Any]], None] | None = option(None, ON_EVENT, Anything(), body="")


FORMATS = (
    "further file format to write, checked for equal outputs and timed: onnx, onnx-int8, torch-export, aotinductor "
    "(compiled for this processor), or transformers or gguf if every block is a Llama block; repeatable"
)


@dataclass(frozen=True)
class ExtractOptions(Request, ByKernelsOfStudy):
    """Options of every extraction of a network from a study."""

    study: str = option(..., IN_STUDIES, StudyName(), flags=(), body="")
    out: str | Path = option(..., OUT, Anything(), flags=(), body="")
    _: KW_ONLY
    select: Selection | None = option(
        None,
        "which network to extract, a `nas.selection.Selection`; default the knee of the front",
        Anything(),
        flags=(),
        body="",
    )
    overwrite: bool = option(False, OVERWRITE, Switch(), body="")
    formats: Sequence[str] = option((), FORMATS, Texts(is_repeated=True), flags=("--format",), metavar="NAME")
    finetune: int = option(
        0,
        "training steps for fine-tuning, with the largest network of the supernet as teacher",
        Whole(0, MOST_STEPS),
        metavar="STEPS",
    )


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(ExtractOptions):
    """Options of `nas extract` and of the Python function `nas.extract`."""

    db: str = option("", DB, Text(), metavar="URL")
    on_step: OnStep | None = option(
        None, "called with each `nas.setup.preparation.Step` of training progress", Anything(), flags=()
    )


@dataclass(frozen=True, kw_only=True)
class ServiceExtract(ExtractOptions):
    """Options of an extraction on the service's machine."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Request, ByKernelsOfStudy):
    """Options for training networks of a front, each alone."""

    study: str = option(..., IN_STUDIES, StudyName(), flags=())
    db: str = option("", DB, Text(), metavar="URL")
    networks: int = option(8, "networks to train, evenly spread over the front; default 8", Whole(1, 100_000))
    steps: int | None = option(None, "training steps; default the recipe's [alone]", Whole(1, MOST_STEPS))
    workers: int = option(0, "trainings in parallel; default one per core", Whole(0, MOST_WORKERS))
    address: str = option(
        "", "a Ray cluster, whose nodes share NAS_HOME; default this machine", Text(), metavar="HOST:PORT"
    )
    out: str = option("", "write the best network as a folder that runs", Text(), metavar="DIR")
    overwrite: bool = option(False, OVERWRITE, Switch())


@dataclass(frozen=True, kw_only=True)
class TruthRequest(Request, OnDevice, ByKernels):
    """Options for training architectures of a space, each alone."""

    space: str = option(..., "a built-in space or a TOML file", Text())
    count: int = option(96, "architectures, in groups of equal size; default 96", Whole(2, 1_000_000))
    out: str = option(..., "the folder of the table", Text(), metavar="DIR")
    design_seed: int = option(0, "random seed of the architectures; a new seed adds a shard", Whole())
    recipe: str | None = option(None, "recipe with the training settings, [alone]", Text(), metavar="TOML")
    workers: int = option(0, "processes; default one per core", Whole(0, MOST_WORKERS))


@dataclass(frozen=True, kw_only=True)
class TimingRequest(Request, OnDevice):
    """Options for timing networks of a space on this machine, for one workload."""

    space: str = option("tiny-lm", "a built-in space or a TOML file; default tiny-lm", Text())
    networks: int = option(
        60,
        "networks that the predictor is fitted to; default 60",
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
    seq_len: int | None = option(None, "tokens per sequence; default the longest", Whole(1, MOST_TOKENS))
    context_len: int = option(0, "tokens before the one that is decoded; default 0", Whole(0, MOST_TOKENS))
    dtype: str = option(
        "float32",
        "number format of the computation: float32, bfloat16 or float16; default float32",
        Text(("float32", "bfloat16", "float16")),
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class ProfileRequest(TimingRequest, ByKernels):
    """Options for profiling this device, or for adapting another device's profile to it."""

    samples: int | None = option(
        None, "adapt a known profile with K networks", Whole(MIN_NETWORKS, MOST_NETWORKS), metavar="K"
    )
    held_out: int = option(
        30, "held-out networks for its error; default 30", Whole(MIN_NETWORKS, MOST_NETWORKS), metavar="N"
    )
    seconds: float = option(
        25.0, "time for operator settings; others are interpolated; default 25", Real(most=1e6, above=0)
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(TimingRequest):
    """Options for evaluating latency predictions on networks of a space."""

    held_out: int = option(
        100, "held-out networks to predict; default 100", Whole(MIN_NETWORKS, MOST_NETWORKS), metavar="N"
    )
