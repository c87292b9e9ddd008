"""MatFormer's claim on the space tiny-matformer: one training serves every FFN width, and untrained mixtures.

Each uniform width is compared with the same network trained alone for equally many steps and data, each Mix'n'Match
network with the line through the uniform widths over parameters. The trivial baseline is a prefix cut out of the widest
network trained alone. Results are lines of studies/results/matformer/runs.jsonl; an interrupted benchmark continues and
repeats nothing that has a line.

Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference", arXiv:2310.07707.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from nas.evaluation.inherited import quality
from nas.home import home
from nas.request.recipe import load_recipe
from nas.tasks.load import load_task
from nas.training.alone import train_alone
from nas.training.checkpoint import fill, supernet_key
from nas.training.sampling import granularities
from nas.training.sandwich import Sandwich
from nas.training.supernet_trainer import train_supernet
from predictors.timing import num_threads
from searchspace.cost import cost
from searchspace.load import load_space
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.supernet.supernet import Supernet
from tests.benchmarks.rows import Row

SPACE, RECIPE = load_space("tiny-matformer"), load_recipe("tiny-matformer")
ENCODING = Encoding(SPACE)
TASK = load_task(SPACE.data, stem=SPACE.stem, head=SPACE.head)
VALIDATION = TASK.validation(RECIPE.validation_examples, RECIPE.batch_size)
RUNS = Path("studies/results/matformer/runs.jsonl")
SEEDS = (0, 1)  # prefixes of a network trained alone are judged for the first seed only
NUM_MIXED = 60
MAX_EXCESS, TOLERANCE = 1.5, 1.0  # percent

Widths = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """`kind`: alone, nested, or cut from the widest network trained alone. `widths`: FFN width of each block."""

    kind: str
    seed: int
    widths: Widths
    parameters: int
    loss: float


def run() -> list[Row]:
    measure()
    found = {(r.kind, r.seed, r.widths): r.loss for r in load()}
    return [*uniform_rows(found), *mixed_rows(found)]


def uniform_rows(found: dict[tuple[str, int, Widths], float]) -> list[Row]:
    """Return by how much the nested loss of each uniform width exceeds that of training it alone, per seed."""
    rows = []
    for widths in map(widths_of, uniform()):
        alone = [found["alone", s, widths] for s in SEEDS]
        nested = [found["nested", s, widths] for s in SEEDS]
        over = [100 * (n / a - 1) for n, a in zip(nested, alone, strict=True)]
        cut = 100 * (found["cut", SEEDS[0], widths] / alone[0] - 1)
        note = (
            f"cut from the widest {cut:+.1f}; alone {fmean(alone):.4f} nats, seeds' sd {stdev(alone):.4f}; "
            f"nested {fmean(nested):.4f}, sd {stdev(nested):.4f}"
        )
        name = f"nested over alone, every d_ff {widths[0]}"
        rows.append(Row(name, fmean(over), min(over), max(over), "% of loss", f"{MAX_EXCESS}", note))
    return rows


def mixed_rows(found: dict[tuple[str, int, Widths], float]) -> list[Row]:
    above = {
        s: above_line({w: v for (kind, seed, w), v in found.items() if (kind, seed) == ("nested", s)})
        for s in SEEDS
    }
    chosen = [widths_of(a) for a in mixed()]
    rising = [w for w in chosen if is_rising(w)]
    rows = []
    for title, some in (("Mix'n'Match", chosen), ("Mix'n'Match, widths not decreasing", rising)):
        for limit, where in ((0.0, "on or below the line"), (TOLERANCE, f"at most {TOLERANCE:g} % above")):
            counts = [sum(above[s][w] <= limit for w in some) for s in SEEDS]
            rows.append(_row(f"{title}: {where}", counts, f"of {len(some)}", aim="20" if limit else ""))
        worst = [max(above[s][w] for w in some) for s in SEEDS]
        rows.append(_row(f"{title}: farthest above", worst, "% of loss"))
    return rows


def above_line(losses: dict[Widths, float]) -> dict[Widths, float]:
    """Return the percentage by which a network's loss exceeds the line through the uniform ones, over parameters."""
    sizes = {widths_of(a): parameters(a) for a in (*uniform(), *mixed())}
    corners = [widths_of(a) for a in uniform()]
    x, y = [sizes[w] for w in corners], [losses[w] for w in corners]
    return {w: 100 * (loss / float(np.interp(sizes[w], x, y)) - 1) for w, loss in losses.items()}


def _row(name: str, values: Sequence[float], unit: str, aim: str = "") -> Row:
    return Row(name, fmean(values), min(values), max(values), unit, aim)


def measure() -> None:
    """Run what RUNS lacks and add its lines."""
    for seed in SEEDS:
        for arch in reversed(uniform()):  # the widest first, from which the others are cut
            if not has("alone", seed, arch):
                alone(seed, arch)
        if not all(has("nested", seed, a) for a in (*uniform(), *mixed())):
            nested(seed)


def has(kind: str, seed: int, arch: ArchSpec) -> bool:
    return any((r.kind, r.seed, r.widths) == (kind, seed, widths_of(arch)) for r in load())


def alone(seed: int, arch: ArchSpec) -> None:
    """Train one width; for the widest one and the first seed, judge its prefixes too."""
    with num_threads(1):
        model = train_alone(arch, TASK, RECIPE.alone.with_seed(seed)).model
        loss = quality(model, VALIDATION)["loss"]
        if arch == uniform()[-1] and seed == SEEDS[0]:
            shared = Supernet(SPACE)
            fill(shared, model.state_dict(), RUNS)
            save("cut", seed, {a: inherited(shared, a) for a in uniform()})
    save("alone", seed, {arch: loss})


def nested(seed: int) -> None:
    settings = RECIPE.training.with_seed(seed)
    with num_threads(1):
        folder = home() / "supernets" / supernet_key(SPACE, TASK, settings)
        shared = train_supernet(SPACE, TASK, settings, folder)
        save("nested", seed, {a: inherited(shared, a) for a in (*uniform(), *mixed())})


def inherited(shared: Supernet, arch: ArchSpec) -> float:
    return quality(shared.extract(arch, copy=False), VALIDATION)["loss"]


def save(kind: str, seed: int, losses: dict[ArchSpec, float]) -> None:
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    with RUNS.open("a", encoding="utf-8") as file:
        for arch, loss in losses.items():
            file.write(json.dumps(asdict(Run(kind, seed, widths_of(arch), parameters(arch), loss))) + "\n")


def load() -> list[Run]:
    if not RUNS.exists():
        return []
    lines = RUNS.read_text(encoding="utf-8").splitlines()
    return [Run(**{**data, "widths": tuple(data["widths"])}) for data in map(json.loads, lines)]


@cache
def uniform() -> list[ArchSpec]:
    """Return the uniform networks, narrowest first."""
    return granularities(Sandwich(SPACE, num_random=0, seed=0))


@cache
def mixed() -> list[ArchSpec]:
    """Return NUM_MIXED untrained networks: with non-decreasing widths, as the paper recommends, and random ones."""
    every = [ENCODING.decode(g) for g in product(*(range(n) for n in ENCODING.num_values.tolist()))]
    rng = np.random.default_rng(0)
    others = [a for a in every if len(set(widths_of(a))) > 1]
    rising = [a for a in others if is_rising(widths_of(a))]
    rest = [a for a in others if not is_rising(widths_of(a))]
    return rising + [rest[i] for i in rng.permutation(len(rest))[: NUM_MIXED - len(rising)]]


def is_rising(widths: Widths) -> bool:
    return all(a <= b for a, b in pairwise(widths))


def widths_of(arch: ArchSpec) -> Widths:
    return tuple(int(b.ffn["d_ff"]) for b in arch.blocks)


def parameters(arch: ArchSpec) -> int:
    return cost(arch, Workload()).parameters
