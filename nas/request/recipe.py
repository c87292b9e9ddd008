"""A recipe: everything that defines a study except its name and database, in one TOML file.

    space = "tiny-lm"           and any other recipe key of `nas.request.schema`, or field of `Recipe`
    [bounds]    quantity = [lower, upper], "" for no bound
    [workload]  phase, batch_size, seq_len, context_len, dtype        what costs and latency are computed for
    [training]  steps, batch_size, learning_rate, num_random, ...     training of the supernet
                sampling (sandwich, granularity), soft_target_weight, precision (float32, bfloat16)
                accumulation: micro-batches per step; processes: how many compute them in parallel
    [alone]     steps, batch_size, learning_rate, ...                 training of one stand-alone network; a network cut
                from an imported model recovers for `recovery_steps` at a learning rate for pretrained weights

Command-line flags override single values; `nas search --print-recipe` prints the resulting recipe.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.request import options
from nas.request.options import Switch, Text, Texts, Whole, option
from nas.request.schema import LocalRecipeKeys
from nas.request.sizes import defaults
from nas.training.settings import OptimizerSettings, TrainingSettings
from predictors.rates import Rates
from searchspace.spec.reading import section, unknown
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.fidelity import RUNGS, SHARES

GUIDED_RUNGS = ("supernet", *SHARES)  # a linear model maps the losses of each rung to those of the next
CLIMBING_TRIALS = 40  # with fewer trials hardly any would reach the end of its training
# For an imported model: the loss before recovery predicts the loss after it well, and every further evaluation takes a
# large share of so short a training.
RECOVERING_RUNGS = ("supernet", "quarter")
MOST = 1_000_000_000  # examples
TABLES = {"workload", "training", "alone"}
Bounds = dict[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Recipe(LocalRecipeKeys):
    """The settings of a study: the keys of `LocalRecipeKeys`, which a search also takes as options, and these fields.

    `space`, `objectives` and `bounds` define the search problem. `data_id` and `model_id` are content ids, by which a
    resumed study recognizes its data and model. With `beat_baseline` a network with a higher loss than the trivial
    prediction is infeasible. `finalists` networks are timed at the end. Quality is measured on `validation_examples`
    held-out examples, in batches of `batch_size`. With `fits_time` the steps of `alone` are derived from the time
    limit, if there is one. `workload` defines costs and latency; `training` holds the settings of the supernet's
    training, `alone` those of one stand-alone network. Raises UsageError naming the option with an invalid value.
    """

    space: str = option(..., "the space", Text())
    objectives: tuple[str, ...] = option(("loss", "latency"), "the objectives", Texts())
    bounds: Bounds = option({}, "bounds on quantities", options.Bounds())
    data_id: str = option("", "content id of the data", Text())
    model_id: str = option("", "content id of the model", Text())
    beat_baseline: bool = option(
        True, "whether a higher loss than the trivial prediction is infeasible", Switch()
    )
    finalists: int = option(12, "networks of the front that are timed at the end", Whole(0, MOST))
    validation_examples: int = option(512, "held-out examples that quality is measured on", Whole(1, MOST))
    batch_size: int = option(128, "held-out examples per batch", Whole(1, MOST))
    fits_time: bool = option(False, "whether the steps of [alone] are derived from --time", Switch())
    workload: Workload = field(default_factory=Workload)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    alone: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        for name, declared in options.options_of(self).items():
            value = getattr(self, name)
            if value is None and declared.default is None:
                continue
            try:
                object.__setattr__(self, name, declared.kind.check(name, value))
            except ValueError as error:
                raise UsageError(str(error)) from None
        if self.recovery_steps and not self.model:
            raise UsageError(f"--recovery-steps {self.recovery_steps}: only an imported --model can recover")
        try:
            Rates.of(self.rates)
        except ValueError as error:
            raise UsageError(f"--rates {error}") from None
        if self.floor is not None and not self.model:
            raise UsageError(f"--floor {self.floor:g}: it is a share of the quality of an imported --model")
        self._check_ladder()

    def _check_ladder(self) -> None:
        if self.quality == "auto":
            self.settled()
            return
        rungs = RUNGS[: RUNGS.index(self.quality)]
        if list(self.ladder) != [r for r in rungs if r in self.ladder]:
            raise UsageError(
                f"--ladder {','.join(self.ladder)}: below --quality {self.quality} it may have, in this order: "
                f"{', '.join(rungs) or 'nothing'}"
            )
        if self.searcher == "guided":
            others = [r for r in self.ladder if r not in GUIDED_RUNGS]
            if others:
                raise UsageError(
                    f"--ladder {','.join(self.ladder)}: guided climbs {', '.join(GUIDED_RUNGS)}; for "
                    f"{', '.join(others)} use --searcher halving"
                )
        elif (self.searcher == "halving") != bool(self.ladder):
            raise UsageError(
                f"--searcher {self.searcher} with --ladder {','.join(self.ladder) or '(none)'}: guided and halving "
                f"climb a ladder, and halving needs one, such as --ladder quarter --quality train"
            )

    def settled(self) -> Recipe:
        """The recipe with `quality` "auto" replaced by "train" or "supernet", and the `ladder` that goes with it.

        "train" is the rule; with at least CLIMBING_TRIALS trials, `guided` gets a ladder of partial trainings and
        decides which networks train on; the ladder of an imported model begins with its own weights ("supernet").
        "supernet" is chosen if there is neither an imported model nor a ladder and the searcher is not `guided`.
        """
        if self.quality != "auto":
            return self
        climbs = self.searcher == "guided" and self.trials >= CLIMBING_TRIALS
        if not self.model and self.searcher != "guided" and not self.ladder:
            return replace(self, quality="supernet")
        rungs = (RECOVERING_RUNGS if self.model else tuple(SHARES)) if climbs else ()
        return replace(self, quality="train", ladder=self.ladder or rungs)

    @property
    def shared_steps(self) -> int:
        """Recovery steps that train all sub-networks of an imported model jointly; 0 if each recovers on its own."""
        return 0 if self.quality == "train" else self.recovery_steps

    def changed(self, **values: Any) -> Recipe:
        """A copy with every value that is not None replaced; new data or a new model resets its content id."""
        given = {name: value for name, value in values.items() if value is not None}
        ids = {f"{name}_id": "" for name in ("data", "model") if name in given}
        return replace(self, **ids | given)

    def trained_for(self, steps: int | None) -> Recipe:
        """A copy with `steps` training steps for the supernet and for each stand-alone network; None changes nothing.

        With an imported model `steps` is also the number of recovery steps.
        """
        if steps is None:
            return self
        training, alone = self.training, self.alone
        return replace(
            self,
            recovery_steps=steps if self.model else self.recovery_steps,
            fits_time=False,
            training=replace(training, steps=steps, warmup_steps=min(training.warmup_steps, steps)),
            alone=replace(alone, steps=steps, warmup_steps=min(alone.warmup_steps, steps)),
        )

    def to_json(self) -> dict[str, Any]:
        simple = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("space", "workload", "training", "alone", "bounds")
        }
        return {
            "space": self.space,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in simple.items()},
            "bounds": {
                name: ["" if side is None else side for side in sides] for name, sides in self.bounds.items()
            },
            "workload": self.workload.to_json(),
            "training": self.training.to_json(),
            "alone": self.alone.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_json`. Raises UsageError for an unknown key or an invalid value, naming it."""
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise UsageError(f"recipe: {unknown(name, known, 'key')}")
        values = dict(data)
        try:
            if "bounds" in values:
                values["bounds"] = {n: _sides(sides) for n, sides in section("bounds", data).items()}
            if "workload" in values:
                values["workload"] = Workload.from_json(section("workload", data))
            for name, kind in (("training", TrainingSettings), ("alone", OptimizerSettings)):
                if name in values:
                    values[name] = kind.from_json(section(name, data))
            return cls(**values)
        except (UsageError, ValueError) as error:
            raise UsageError(f"recipe: {error}") from error

    def to_toml(self) -> str:
        """The TOML text of a file from which `load_recipe` reads this recipe."""
        data = self.to_json()
        if self.fits_time:
            del data["alone"]["steps"]
        tables = {name: value for name, value in data.items() if isinstance(value, dict)}
        lines = [f"{n} = {_toml(v)}" for n, v in data.items() if n not in tables and v is not None]
        for name, table in tables.items():
            if table:
                lines += ["", f"[{name}]", *(f"{n} = {_toml(v)}" for n, v in table.items())]
        return "\n".join(lines) + "\n"


def load_recipe(space: str | SpaceSpec, path: str | None = None, model: str = "") -> Recipe:
    """The recipe in `path`, else the one shipped for `space`, else defaults.

    Missing values suit the length of the space's examples (`nas.request.sizes`), and the training time of one network
    is derived from the time limit unless the recipe is a shipped one or gives `steps` of [alone]. With an imported
    `model` the defaults of `Recipe` are used. Raises UsageError if the file can't be read or is no valid recipe.
    """
    name = space if isinstance(space, str) else space.name
    shipped = files("studies").joinpath("recipes", f"{name}.toml")
    text = ""
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--recipe {path}: {error.strerror}; name a TOML file") from error
        except UnicodeDecodeError:
            raise UsageError(f"--recipe {path}: not text; name a TOML file in UTF-8") from None
    elif "/" not in name and shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    try:
        data = {"space": name} | tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--recipe {path or name}: not TOML: {error}") from error
    if model or data.get("model"):
        return Recipe.from_json(data)
    left_open = _left_open(data["space"] if isinstance(space, str) else space)
    if "steps" in section("alone", {"alone": {}} | data):
        data["fits_time"] = False  # the steps are given
    elif path is not None or not text:
        left_open["fits_time"] = True
    tables = {n: left_open[n] | section(n, data) for n in left_open.keys() & data.keys() & TABLES}
    return Recipe.from_json(left_open | data | tables)


def _left_open(space: Any) -> dict[str, Any]:
    """Defaults for a readable space, else none: whoever loads the space reports what is wrong with it."""
    if isinstance(space, str):
        from searchspace.load import load_space

        try:
            space = load_space(space)
        except ValueError:
            return {}
    return defaults(space) if isinstance(space, SpaceSpec) else {}


def _sides(value: Any) -> Any:
    """Bounds as read from a file, with "" (no bound) replaced by None; `Recipe` checks the result."""
    return tuple(None if side == "" else side for side in value) if isinstance(value, list) else value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
