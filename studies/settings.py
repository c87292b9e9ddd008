"""What a study was told beside its space, objectives and budget, as the database keeps it in one column of JSON.

A key that is not there has its default, so that studies of earlier versions read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True)
class Baseline:
    """The trivial answer that trained networks have to beat: what it is, and its loss in nats."""

    words: str
    loss: float


@dataclass(frozen=True)
class WarmStart:
    """The earlier study that it learns from, and the number of its first trial that it does not."""

    study: str
    trials: int


@dataclass(frozen=True)
class Settings:
    """`recipe` is that of `nas.request.recipe` in JSON; {} where the study was made without one.

    `device` is where networks are judged, `target` the device that latency is predicted for where that is another one.
    `kernels` is what operators run by on a CUDA device, `why_eager` why latency is that of eager torch where another
    runtime would suit. `plain` is how many networks of the plain family come first; None in a study that was begun
    before there was one. `designs` says whether the published designs that the space holds come early, too.
    `others` are keys of other versions, kept as they are.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    target: str = ""
    plain: int | None = None
    baseline: Baseline | None = None
    warm_start: WarmStart | None = None
    kernels: str = "torch"
    why_eager: str = ""
    designs: bool = False
    others: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Without what is as if it were not there."""
        data, nothing = asdict(self), asdict(Settings())
        others: dict[str, Any] = data.pop("others")
        return others | {name: value for name, value in data.items() if value != nothing[name]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        names = {f.name for f in fields(cls)} - {"others"}
        known = {name: value for name, value in data.items() if name in names}
        for name, kind in (("baseline", Baseline), ("warm_start", WarmStart)):
            if known.get(name):
                known[name] = kind(**known[name])
        return cls(**known, others={name: value for name, value in data.items() if name not in names})
