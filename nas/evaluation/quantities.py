"""The quantities a study can have as objectives: direction, unit and source. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.errors import UsageError
from nas.request.recipe import Recipe
from nas.tasks.metric_names import is_own, parsed
from proxies.names import PROXY_NAMES
from searchspace.spec.reading import unknown
from searchspace.spec.space import Constraint
from studies.fidelity import PROXY
from studies.records import Objective

MEGABYTE = 1e6
ESTIMATE = "estimated_latency"


@dataclass(frozen=True)
class Quantity:
    """A possible objective; `source` says how its value is obtained: inherited, predicted, cost or proxy.

    `cost` names the field of `searchspace.cost` that gives it, and `scale` is the size of its unit in units of that
    field. Values are at least `least` (above it if `is_positive`) and at most `most`.
    """

    name: str
    direction: str
    unit: str
    source: str
    about: str
    cost: str = ""
    scale: float = 1.0
    least: float = -math.inf
    most: float = math.inf
    is_positive: bool = False

    def check(self, lower: float | None, upper: float | None) -> None:
        """Raises UsageError for bounds that no value can meet."""
        if upper is not None and (upper < self.least or (self.is_positive and upper == self.least)):
            right = "greater than" if self.is_positive else "at least"
            raise UsageError(f"--max {self.name}={upper:g}: give a bound {right} {self.least:g}")
        if lower is not None and lower > self.most:
            raise UsageError(f"--min {self.name}={lower:g}: give a bound of at most {self.most:g}")


_AMOUNT: dict[str, Any] = {"least": 0.0, "is_positive": True}

QUANTITIES = {
    q.name: q
    for q in (
        Quantity(
            "loss",
            "minimize",
            "nats",
            "inherited",
            "cross entropy on held-out data",
            least=0.0,
        ),
        Quantity(
            "accuracy",
            "maximize",
            "",
            "inherited",
            "share of correct predictions on held-out data",
            least=0.0,
            most=1.0,
        ),
        Quantity(
            "kl",
            "minimize",
            "nats",
            "inherited",
            "mean KL divergence from the imported model on held-out data",
            least=0.0,
        ),
        Quantity(
            "cosine",
            "maximize",
            "",
            "inherited",
            "mean cosine to the imported model's embeddings",
            least=-1.0,
            most=1.0,
        ),
        Quantity(
            "pearson",
            "maximize",
            "",
            "inherited",
            "Pearson correlation of the cosine of held-out sentence pairs with their scores",
            least=-1.0,
            most=1.0,
        ),
        Quantity("spearman", "maximize", "", "inherited", "pearson of their ranks", least=-1.0, most=1.0),
        Quantity(
            "exact_match",
            "maximize",
            "",
            "inherited",
            "share of held-out sequences, such as completions, that are correct in every token",
            least=0.0,
            most=1.0,
        ),
        Quantity(
            "latency",
            "minimize",
            "ms",
            "predicted",
            "one call of the workload, predicted from operators timed on this device",
            **_AMOUNT,
        ),
        Quantity(
            "memory",
            "minimize",
            "MB",
            "cost",
            "weights and decoding state for the workload",
            "memory_bytes",
            MEGABYTE,
            **_AMOUNT,
        ),
        Quantity(
            ESTIMATE,
            "minimize",
            "ms",
            "cost",
            "one call of the workload, estimated from its operator calls, FLOPs and bytes by the peak rates --rates",
            **_AMOUNT,
        ),
        Quantity("parameters", "minimize", "", "cost", "trainable values", "parameters", **_AMOUNT),
        Quantity(
            "active_parameters",
            "minimize",
            "",
            "cost",
            "trainable values that one token uses, including only the experts it is routed to",
            "active_parameters",
            **_AMOUNT,
        ),
        Quantity(
            "active_weight_bytes",
            "minimize",
            "",
            "cost",
            "bytes of weights that a decoding step of one sequence reads",
            "active_weight_bytes",
            **_AMOUNT,
        ),
        Quantity(
            "flops", "minimize", "", "cost", "FLOPs of matrix products for the workload", "flops", **_AMOUNT
        ),
        Quantity(
            "state_bytes",
            "minimize",
            "",
            "cost",
            "bytes of decoding state for the workload",
            "state_bytes",
            least=0.0,
        ),
    )
}
QUANTITIES |= {
    entry.name: Quantity(entry.name, entry.direction, "", "proxy", f"training-free: {entry.about}")
    for entry in PROXY_NAMES.values()
    if entry.name not in QUANTITIES  # baselines that are costs are already objectives, to be minimized
}


METRICS = tuple(q.name for q in QUANTITIES.values() if q.source == "inherited")


def known_to(recipe: Recipe) -> Mapping[str, Quantity]:
    """The quantities that a study of this recipe may have: QUANTITIES and the user-defined metrics in the recipe."""
    own = (parsed(metric) for metric in recipe.metric if is_own(metric))
    about = "a user-defined function of held-out outputs and labels"
    return QUANTITIES | {name: Quantity(name, way, "", "inherited", about) for name, way in own}


def metric_names(recipe: Recipe) -> list[str]:
    """The names of the quantities in --metric. Raises UsageError for an unknown metric."""
    found = [parsed(metric)[0] if is_own(metric) else metric for metric in recipe.metric]
    for name in found:
        if not is_own(name) and name not in METRICS:
            raise UsageError(f"--metric: {unknown(name, METRICS)}; or module:function of your own")
    return found


def default_objectives(recipe: Recipe) -> list[str]:
    """The objectives of the recipe, with the metrics of --metric, if any, in place of its own metrics.

    With quality "proxy" a training-free score replaces metrics.
    """
    if recipe.quality != "proxy":
        metrics = metric_names(recipe)
        others = [n for n in recipe.objectives if n not in METRICS and n not in metrics]
        return [*metrics, *others] if metrics else list(recipe.objectives)
    names = [n for n in recipe.objectives if n not in QUANTITIES or QUANTITIES[n].source != "inherited"]
    return names if len(names) == len(recipe.objectives) else [PROXY, *names]


def parse_objectives(names: Sequence[str], recipe: Recipe, device: str) -> tuple[Objective, ...]:
    """The objectives of a study with their bounds. Raises UsageError for an unknown, repeated or unavailable one."""
    if not names:
        raise UsageError(f"--objectives is empty; known: {', '.join(QUANTITIES)}")
    check_distinct(names)
    found, known = [], known_to(recipe)
    for name in names:
        if name not in known:
            right = f"; add --metric {name}" if is_own(name) else ""
            raise UsageError(f"--objectives: {unknown(name, known)}{right}")
        quantity = known[name]
        if quantity.source == "inherited" and recipe.quality == "proxy":
            proxies = ", ".join(q.name for q in QUANTITIES.values() if q.source == "proxy")
            raise UsageError(f"--quality proxy trains nothing, so {name} is unknown; use one of {proxies}")
        lower, upper = recipe.bounds.get(name, (None, None))
        trains = recipe.quality == "train" and quantity.source == "inherited"
        source = "trained" if trains else quantity.source
        found.append(
            Objective(
                name,
                quantity.direction,
                quantity.unit,
                source,
                workload=recipe.workload if source in ("predicted", "cost") else None,
                device=device if source == "predicted" else "",
                lower=lower,
                upper=upper,
            )
        )
    return tuple(found)


def check_distinct(names: Sequence[str]) -> None:
    """Raises UsageError if an objective is named twice."""
    if len(set(names)) != len(names):
        raise UsageError(f"--objectives {','.join(names)}: name each only once")


def parse_constraints(recipe: Recipe, names: Sequence[str]) -> tuple[Constraint, ...]:
    """The bounds on costs, as constraints that every proposed architecture meets.

    Other bounds are checked on the values of trials. Raises UsageError for a bound on an unknown quantity, or on a
    quantity that is neither a cost nor one of the objectives `names`.
    """
    found, known = [], known_to(recipe)
    for name, (lower, upper) in recipe.bounds.items():
        quantity = known.get(name)
        if quantity is None:
            raise UsageError(f"a bound (--max, --min): {unknown(name, known, 'quantity')}")
        quantity.check(lower, upper)
        if not quantity.cost:
            if name in names:
                continue
            raise UsageError(
                f"a bound on {name}: only objectives are evaluated; add it to --objectives {','.join(names)}"
            )
        scaled = [None if side is None else side * quantity.scale for side in (lower, upper)]
        found.append(Constraint(quantity.cost, *scaled))
    return tuple(found)
