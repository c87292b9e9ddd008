"""Trains one network alone: the quality that every cheaper measurement approximates.

It starts from random weights or, if cut from an imported model, from the model's weights with the model as teacher.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nas.errors import ArtifactError
from nas.tasks.base import Batch, Task, loss
from nas.training.checkpoint import software, write_whole_tensors
from nas.training.placement import CPU, Batches, is_read_after
from nas.training.recovery import Recovery
from nas.training.settings import OptimizerSettings
from nas.training.supernet_trainer import TrainingDiverged, adamw, autocast, learning_rate
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.recalibration import calibrate, set_statistics
from searchspace.spec.arch import ArchSpec

CURVE_POINTS = 8
CALIBRATED_AFTER = (
    4  # after 1/4 of the steps: keys are meaningful by then, and the weights have time to adapt to the codes
)
RECALIBRATION_BATCHES, RECALIBRATION_SEED = 4, 1


@dataclass(frozen=True)
class TrainedAlone:
    """A trained model; `curve` is the mean training loss in nats of each of CURVE_POINTS parts of the steps."""

    model: Model
    curve: tuple[float, ...]


def train_alone(
    arch: ArchSpec,
    task: Task,
    settings: OptimizerSettings,
    start: Model | None = None,
    device: torch.device = CPU,
) -> TrainedAlone:
    """Train `arch` on `device`, or `start` in place; the seed in `settings` determines weights and batches.

    Raises TrainingDiverged if a loss is not finite.
    """
    training = Training(arch, task, settings, start, device)
    training.run(settings.steps)
    model = training.model.eval()
    set_statistics(model, training.calibration)
    return TrainedAlone(model, curve(training.losses))


class Training:
    """The training of one network, which can pause after any step; `losses` holds a number for each finished step.

    With `recovery` it starts from the recovery's weights and minimizes its loss; else from `start` or random weights.
    """

    def __init__(
        self,
        arch: ArchSpec,
        task: Task,
        settings: OptimizerSettings,
        start: Model | None = None,
        device: torch.device = CPU,
        recovery: Recovery | None = None,
    ) -> None:
        self.arch, self.task, self.settings, self.device = arch, task, settings, device
        self.recovery = recovery
        if recovery is not None:
            start = recovery.start(arch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.model = (start or Model(arch)).to(device).train()
        self.model.progress = 0.0
        self.tensors = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = adamw(self.tensors, settings)
        if recovery is None:
            self.calibration = [b.to(device).inputs for b in calibration_batches(task, settings.batch_size)]
        else:
            self.calibration = recovery.calibration
        self.losses: list[float] = []
        self._unread: list[Tensor] = []

    def run(self, until: int) -> None:
        """Train until `until` steps are done in total; skips the computation if there is nothing to learn."""
        if self.recovery is not None and self.recovery.has_nothing_to_learn(self.arch):
            self.losses += [0.0] * (until - len(self.losses))
        with closing(Batches(self.task, self.settings, self.device)) as batches:
            for step in range(len(self.losses), until):
                batch = self.recovery.lesson(step).batch if self.recovery else batches.at(step)[0][0]
                self.step(step, batch, until)
        self.optimizer.zero_grad()  # frees as much memory as the weights take, which are copied next
        self.model.progress = len(self.losses) / self.settings.steps

    def step(self, step: int, batch: Batch, until: int) -> None:
        """Train on one batch on the device; after step `until` all losses are read. Raises TrainingDiverged."""
        settings = self.settings
        self.model.progress = step / settings.steps
        if step == settings.steps // CALIBRATED_AFTER:
            calibrate(self.model, self.calibration)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        if self.recovery is not None:
            value = self.recovery.loss(self.model, self.recovery.lesson(step))
        else:
            with autocast(settings, self.device):
                logits = self.model(batch.inputs, Tokens(valid=batch.valid))[0]
            value = loss(logits, batch.targets, batch.valid, batch.rows)
        self._unread.append(value.detach())
        if is_read_after(step + 1, until, self.device):
            self._read()
        self.optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.tensors, settings.grad_clip)
        self.optimizer.step()

    def _read(self) -> None:
        """Read the losses that are still on the device. Raises TrainingDiverged if one is not finite."""
        self.losses += torch.stack(self._unread).tolist()  # the only wait for the device
        first = len(self.losses) - len(self._unread)
        self._unread.clear()
        for step, value in enumerate(self.losses[first:], start=first + 1):
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"step {step}: the loss of architecture {self.arch.id} is {value}; "
                    f"train with a learning rate smaller than {self.settings.learning_rate}"
                )

    def trained(self) -> Model:
        """A copy of the network in its current state; with `recovery`, in its initial state if that is better."""
        model = deepcopy(self.model).eval()
        set_statistics(model, self.calibration)
        return self.recovery.better(self.arch, model) if self.recovery and self.losses else model

    def save(self, path: Path, told: Mapping[str, float]) -> None:
        """Atomically replace the file that `restored` reads; `told` are further values to store in it.

        A finished training stores only its weights, a third of the bytes.
        """
        unfinished = len(self.losses) < self.settings.steps
        moments = {
            f"adamw/{i}/{name}": value
            for i, tensor in enumerate(self.tensors if unfinished else ())
            for name, value in self.optimizer.state[tensor].items()
        }
        frozen = self._frozen()
        weights = {f"weights/{n}": t for n, t in self.model.state_dict().items() if n not in frozen}
        state = {"identity": self.identity(), "losses": self.losses, "told": dict(told)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_tensors(path, weights | moments, {"state": json.dumps(state)})

    def restored(self, path: Path) -> dict[str, float]:
        """Restore the state saved in `path`; returns the values `told` to `save`, {} if the file does not exist.

        Raises ArtifactError if the file belongs to another training or is damaged.
        """
        if not path.exists():
            return {}
        try:
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if state["identity"] != self.identity():
                raise ValueError("it belongs to another training")
            weights = {n.removeprefix("weights/"): t for n, t in found.items() if n.startswith("weights/")}
            missing, strange = self.model.load_state_dict(weights, strict=False)
            if strange or set(missing) != self._frozen():
                raise ValueError("it lacks weights, or has others")
            for name, value in found.items():
                if name.startswith("adamw/"):
                    _, i, moment = name.split("/")
                    self.optimizer.state[self.tensors[int(i)]][moment] = value.to(self.device)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{path}: this training can't be continued ({error}); delete the file to train again"
            ) from error
        self.losses = [float(value) for value in state["losses"]]
        self.model.progress = len(self.losses) / self.settings.steps
        return {name: float(value) for name, value in state["told"].items()}

    def _frozen(self) -> set[str]:
        """The names of the parameters that are not trained."""
        return {name for name, p in self.model.named_parameters() if not p.requires_grad}

    def identity(self) -> dict[str, Any]:
        return self.identity_of(self.arch, self.task, self.settings, self.recovery)

    @staticmethod
    def identity_of(
        arch: ArchSpec, task: Task, settings: OptimizerSettings, recovery: Recovery | None = None
    ) -> dict[str, Any]:
        """Everything that determines the weights, as JSON."""
        began = {} if recovery is None else {"recovery": recovery.made_from}
        return began | {
            "arch": arch.to_json(),
            "task": task.content_id,
            "settings": settings.to_json(),
            "software": software(),
        }


def calibration_batches(task: Task, batch_size: int) -> list[Batch]:
    """The batches for recalibrating statistics after training, equal for every network."""
    return [task.batch(i, batch_size, RECALIBRATION_SEED) for i in range(RECALIBRATION_BATCHES)]


def curve(losses: Sequence[float]) -> tuple[float, ...]:
    """The mean of each of CURVE_POINTS nearly equal parts of `losses`."""
    points = min(CURVE_POINTS, len(losses))
    edges = [round(i * len(losses) / points) for i in range(points + 1)]
    return tuple(sum(losses[a:b]) / (b - a) for a, b in pairwise(edges))
