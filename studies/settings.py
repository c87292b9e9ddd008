"""A study's options other than its space, objectives and budget, stored as JSON in one database column.

A missing key has its default, so that studies of earlier versions can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True)
class Baseline:
    """The trivial model that trained networks must beat: its name, and its loss in nats."""

    words: str
    loss: float


@dataclass(frozen=True)
class WarmStart:
    """The earlier study to learn from: its name, and how many of its trials are used."""

    study: str
    trials: int


@dataclass(frozen=True)
class Settings:
    """`recipe` is that of `nas.request.recipe` as JSON, {} where the study was created without one.

    `device` is where networks are judged; `target` is the device that latency is predicted for, if another one.
    `kernels` is the implementation used on a CUDA device; `why_eager` is why latency is measured in eager torch where
    another runtime would be the default. `plain` is how many networks of the plain family come first, None in a study
    from before these existed. `designs` says whether published designs in the space are proposed early too. `others`
    are keys of other versions, kept unchanged.
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
        """Return a JSON object without the fields that have their default."""
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
