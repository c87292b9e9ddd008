"""A recipe: everything a study needs beside its name and database, in one TOML file.

    space, data, objectives, searcher, trials, minutes, seed, lag, quality, finalists, validation_examples, batch_size
    ladder                      cheaper judgements that decide who gets that of `quality`: proxy, supernet, short
    gate_anyway                 let the proxy of a ladder decide also where it is not known to beat parameter count
    model, recovery_steps       the folder of an imported model, and how long its sub-networks are trained after cutting
    data_id, model_id           content ids of what a study read; where they stand, nothing else is read
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
from searchspace.spec.workload import Workload
from studies.fidelity import RUNGS

QUALITIES = tuple(rung for rung in RUNGS if rung != "short")
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
    objectives: tuple[str, ...] = ("loss", "latency", "memory")
    bounds: Bounds = field(default_factory=dict)
    searcher: str = "nsga2"
    trials: int = 220
    minutes: float | None = None
    seed: int = 0
    lag: int = 16
    quality: str = "supernet"
    ladder: tuple[str, ...] = ()
    gate_anyway: bool = False
    finalists: int = 12
    validation_examples: int = 512
    batch_size: int = 128
    workload: Workload = field(default_factory=Workload)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    alone: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        for name in ("trials", "lag", "finalists", "validation_examples", "batch_size", "recovery_steps"):
            if getattr(self, name) < (0 if name in ("finalists", "recovery_steps") else 1):
                raise UsageError(f"{name} must be a positive whole number, got {getattr(self, name)}")
        if self.minutes is not None and self.minutes <= 0:
            raise UsageError(f"minutes must be greater than 0, got {self.minutes:g}")
        if self.recovery_steps and not self.model:
            raise UsageError(f"--recovery-steps {self.recovery_steps}: only an imported --model can recover")
        if self.quality not in QUALITIES:
            raise UsageError(f"--quality {self.quality}: unknown; known: {', '.join(QUALITIES)}")
        self._check_ladder()
        for name, (lower, upper) in self.bounds.items():
            if lower is not None and upper is not None and lower > upper:
                raise UsageError(
                    f"the bounds on {name} contradict: at least {lower:g} (--min), at most {upper:g} (--max)"
                )

    def _check_ladder(self) -> None:
        rungs = RUNGS[: RUNGS.index(self.quality)]
        if list(self.ladder) != [r for r in rungs if r in self.ladder]:
            raise UsageError(
                f"--ladder {','.join(self.ladder)}: below --quality {self.quality} it may have, in this order: "
                f"{', '.join(rungs) or 'nothing'}"
            )
        if (self.searcher == "halving") != bool(self.ladder):
            raise UsageError(
                f"--searcher {self.searcher} with --ladder {','.join(self.ladder) or '(none)'}: halving is the "
                f"searcher that climbs a ladder, and needs one, such as --ladder proxy --quality supernet"
            )

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
                raise UsageError(f"recipe: unknown {name!r}; known: {', '.join(known)}")
        values = dict(data)
        try:
            for name in ("objectives", "ladder"):
                if name in values:
                    values[name] = tuple(values[name])
            if "bounds" in values:
                values["bounds"] = {
                    n: (_side(low), _side(high)) for n, (low, high) in values["bounds"].items()
                }
            if "workload" in values:
                values["workload"] = Workload.from_json(values["workload"])
            for name, kind in (("training", TrainingSettings), ("alone", OptimizerSettings)):
                if name in values:
                    values[name] = kind.from_json(values[name])
            return cls(**values)
        except (TypeError, ValueError) as error:
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
    elif "/" not in space and shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    else:
        return Recipe(space=space)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--recipe {path or space}: not TOML: {error}") from error
    return Recipe.from_json({"space": space} | data)


def _side(value: Any) -> float | None:
    return None if value in ("", None) else float(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
