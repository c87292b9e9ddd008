"""A recipe: everything a study needs beside its name and database, in one TOML file.

    space, data, objectives, searcher, trials, minutes, seed, lag, quality, finalists, validation_examples, batch_size
    quality                     train, supernet, proxy, or auto, which chooses among them
    ladder                      cheaper judgements that decide who gets that of `quality`: proxy, supernet, and eighth,
                                quarter, half of the training
    gate_anyway                 let the proxy of a ladder decide also where it is not known to beat parameter count
    beat_baseline               trained networks that are worse than the trivial answer are infeasible
    model, recovery_steps       the folder of an imported model, and how long its sub-networks are trained after cutting
    data_id, model_id           content ids of what a study read; where they stand, nothing else is read
    runtime                     what latency is of: eager, onnxruntime, or auto, which is onnxruntime for encoders and
                                images where it is installed
    [bounds]    quantity = [lower, upper], "" leaves a side open
    [workload]  phase, batch_size, seq_len, context_len, dtype        what is costed and timed
    [training]  steps, batch_size, learning_rate, num_random, ...     how the supernet is trained
                sampling (sandwich, balanced, granularity), soft_target_weight, precision (float32, bfloat16)
                accumulation: parts of a batch, one after the other; processes: how many compute them
    [alone]     steps, batch_size, learning_rate, ...                 how one network is trained by itself

Command-line flags change single values; `nas search --print-recipe` writes the result back.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.training.settings import OptimizerSettings, TrainingSettings
from predictors.runtimes import RUNTIMES
from searchspace.spec.reading import bounds, real, section, shown, unknown, whole, word, words
from searchspace.spec.workload import Workload
from studies.fidelity import RUNGS, SHARES

AUTO = "auto"
QUALITIES = ("auto", *(rung for rung in RUNGS if rung not in SHARES))
GUIDED_RUNGS = ("supernet", *SHARES)  # a line leads from the losses of each to those of the next
CLIMBING_TRIALS = 40  # of fewer hardly any would reach the end of its training
MOST = 1_000_000_000  # trials, examples
LONGEST = 100 * 365 * 24 * 60.0  # minutes
_COUNTS = {
    "trials": 1,
    "lag": 1,
    "finalists": 0,
    "validation_examples": 1,
    "batch_size": 1,
    "recovery_steps": 0,
}
Bounds = dict[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Recipe:
    """The defaults suit a small study on two cores; `data` empty means the space's own."""

    space: str
    data: str = ""
    model: str = ""
    data_id: str = ""
    model_id: str = ""
    recovery_steps: int = 0
    objectives: tuple[str, ...] = ("loss", "latency")
    bounds: Bounds = field(default_factory=dict)
    searcher: str = "guided"
    trials: int = 160
    minutes: float | None = None
    seed: int = 0
    lag: int = 4
    quality: str = "auto"
    ladder: tuple[str, ...] = ()
    runtime: str = AUTO
    gate_anyway: bool = False
    beat_baseline: bool = True
    finalists: int = 12
    validation_examples: int = 512
    batch_size: int = 128
    workload: Workload = field(default_factory=Workload)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    alone: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        try:
            self._check_values()
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self.recovery_steps and not self.model:
            raise UsageError(f"--recovery-steps {self.recovery_steps}: only an imported --model can recover")
        if self.quality not in QUALITIES:
            raise UsageError(f"--quality: {unknown(self.quality, QUALITIES)}")
        if self.runtime not in (AUTO, *RUNTIMES):
            raise UsageError(f"--runtime: {unknown(self.runtime, (AUTO, *RUNTIMES))}")
        self._check_ladder()

    def _check_values(self) -> None:
        for name, least in _COUNTS.items():
            whole(name, getattr(self, name), least, MOST)
        whole("seed", self.seed)
        if self.minutes is not None:
            real("minutes", self.minutes, above=0, most=LONGEST)
        for name in ("space", "data", "model", "searcher", "quality", "runtime"):
            word(name, getattr(self, name))
        for name in ("objectives", "ladder"):
            for item in getattr(self, name):
                word(name, item)
        for name in ("gate_anyway", "beat_baseline"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} {shown(getattr(self, name))}: give true or false")
        for name, sides in self.bounds.items():
            if not isinstance(sides, tuple | list) or len(sides) != 2:
                raise ValueError(
                    f"the bounds on {name} {shown(sides)}: give a lower and an upper one, None for an open side"
                )
            try:
                bounds(name, *sides)
            except ValueError as error:
                raise ValueError(f"--min, --max: {error}") from None

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
        """With the judgement that `auto` stands for.

        An imported model is judged by its own weights; a new space by training: where there are trials enough each
        network a part of it first, and the searcher decides which go on; by a supernet where the searcher cannot.
        """
        if self.quality != "auto":
            return self
        if self.model or (self.searcher != "guided" and not self.ladder):
            return replace(self, quality="supernet")
        rungs = tuple(SHARES) if self.trials >= CLIMBING_TRIALS else ()
        return replace(self, quality="train", ladder=self.ladder or rungs)

    def changed(self, **values: Any) -> Recipe:
        """A copy with every value that is not None replaced."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        simple = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("workload", "training", "alone", "bounds")
        }
        return {
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
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise UsageError(f"recipe: {unknown(name, known, 'key')}")
        values = dict(data)
        try:
            for name in ("objectives", "ladder"):
                if name in values:
                    values[name] = tuple(words(name, values[name]))
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
        """The text of a recipe file that loads as this recipe."""
        data = self.to_json()
        tables = {name: value for name, value in data.items() if isinstance(value, dict)}
        lines = [f"{n} = {_toml(v)}" for n, v in data.items() if n not in tables and v is not None]
        for name, table in tables.items():
            if table:
                lines += ["", f"[{name}]", *(f"{n} = {_toml(v)}" for n, v in table.items())]
        return "\n".join(lines) + "\n"


def load_recipe(space: str, path: str | None = None) -> Recipe:
    """The recipe in `path`, else the one shipped for `space`, else the defaults with that space."""
    shipped = files("studies").joinpath("recipes", f"{space}.toml")
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--recipe {path}: {error.strerror}; name a TOML file") from error
        except UnicodeDecodeError:
            raise UsageError(f"--recipe {path}: not text; name a TOML file in UTF-8") from None
    elif "/" not in space and shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    else:
        return Recipe(space=space)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--recipe {path or space}: not TOML: {error}") from error
    return Recipe.from_json({"space": space} | data)


def _sides(value: Any) -> Any:
    """Of a file, where "" stands for an open side; checked by the recipe."""
    return tuple(None if side == "" else side for side in value) if isinstance(value, list) else value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
