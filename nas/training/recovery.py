"""Recovery of a network cut from an imported model: starts from the model's weights, with the whole model as teacher.

    loss = L + HIDDEN mean_i |x_i - t_i|^2 / |t_i|^2      L: the task's loss; if it has classes, TEACHER_SHARE of L is
                                                          KL(teacher || network)

x_i and t_i are the hidden states [B, T, D] of the network and of the teacher after each block that the network kept,
over real tokens and the channels that both have. Romero et al., "FitNets", arXiv:1412.6550; Jiao et al., "TinyBERT",
arXiv:1909.10351. The stem is frozen, because so short a training sees few rows of its embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nas.tasks.base import Batch, Task, loss
from nas.tasks.sequences import EmbeddingTask
from nas.training.compensation import Compensation, Moments
from nas.training.placement import CPU
from nas.training.settings import OptimizerSettings
from nas.training.supernet_trainer import autocast, soft_loss
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec
from searchspace.supernet.supernet import Supernet

RATE = 2e-4  # learning rate for pretrained weights
TEACHER_SHARE = 0.5
HIDDEN = 1.0
CACHE_BYTES = 256 << 20  # of the teacher's outputs, in each process
COMPARED_BATCHES, CALIBRATION_BATCHES, COMPARED_SEED = 2, 4, 1

Hidden = dict[str, list[Tensor]]  # by block, its outputs [B, T, D] in each of its runs
S = TypeVar("S", bound=OptimizerSettings)


def recovery_settings(settings: S, steps: int) -> S:
    """`settings` with `steps` steps, the learning rate RATE and a warm-up over a tenth of the steps."""
    steps = max(1, steps)
    return replace(settings, steps=steps, learning_rate=RATE, warmup_steps=max(1, steps // 10))


@dataclass(frozen=True)
class Lesson:
    """A batch with the teacher's logits and hidden states, on the device; no logits if its outputs are the targets."""

    batch: Batch
    logits: Tensor | None
    hidden: Hidden

    @property
    def num_bytes(self) -> int:
        held = [
            self.logits,
            self.batch.inputs,
            self.batch.targets,
            *(t for ts in self.hidden.values() for t in ts),
        ]
        return sum(t.nbytes for t in held if t is not None)


class Recovery:
    """Initial weights and training loss of the networks that are cut from the model `whole`.

    The initial weights are the model's, compensated for removed channels by `moments` (`compensation.moments`).

    `made_from` identifies the weights of `supernet`; with the architecture it determines a network's initial weights.
    The teacher is extracted from the supernet, so that both have the same order of channels (and, on the CPU, share
    tensors). If the whole model is no network of the space, `teacher()` is used and hidden states are not compared.
    """

    def __init__(
        self,
        supernet: Supernet,
        whole: ArchSpec,
        teacher: Callable[[], Model],
        task: Task,
        settings: OptimizerSettings,
        made_from: str,
        device: torch.device = CPU,
        moments: Moments | None = None,
    ) -> None:
        self.compensation = Compensation(supernet, moments or {})
        self.supernet, self.whole, self.task, self.settings = supernet, whole, task, settings
        self.made_from, self.device = made_from, device
        try:
            found, self.compares_hidden = supernet.extract(whole, copy=False), True
        except ValueError:
            found, self.compares_hidden = teacher(), False
        self.teacher = found.requires_grad_(False).eval().to(device)
        # here the targets are the teacher's outputs, computed with its hidden states in one pass
        self._taught_by = replace(task, teacher=self.teacher) if isinstance(task, EmbeddingTask) else None
        self._lessons: dict[tuple[int, int], Lesson] = {}
        self._last: tuple[tuple[int, int], Lesson] | None = None

    def start(self, arch: ArchSpec) -> Model:
        """The network with its initial weights, on the CPU."""
        weights = {name: t.cpu() for name, t in self.compensation.weights(arch).items()}
        model = Model.from_weights(arch.unquantized, weights).requires_grad_().eval()
        model.part("stem").requires_grad_(False)
        return model

    def has_nothing_to_learn(self, arch: ArchSpec) -> bool:
        """Whether `arch` is the teacher itself, on a task whose targets are the teacher's outputs."""
        return arch.unquantized == self.whole and getattr(self.task, "teacher", None) is not None

    def lesson(self, step: int, seed: int | None = None) -> Lesson:
        """The lesson of a step, equal for every network; the last one and others up to CACHE_BYTES are cached."""
        key = step, self.settings.seed if seed is None else seed
        if key in self._lessons:
            return self._lessons[key]
        if self._last is None or self._last[0] != key:
            made = self._taught(*key)
            self._last = key, made
            if sum(kept.num_bytes for kept in self._lessons.values()) + made.num_bytes <= CACHE_BYTES:
                self._lessons[key] = made
        return self._last[1]

    @cached_property
    def calibration(self) -> list[Tensor]:
        """Inputs [B, T] or [B, C, H, W] for recalibrating statistics, on the device; equal for every network."""
        drawn = (
            self.task.batch(i, self.settings.batch_size, COMPARED_SEED) for i in range(CALIBRATION_BATCHES)
        )
        return [batch.inputs.to(self.device) for batch in drawn]

    def loss(self, model: Model, lesson: Lesson) -> Tensor:
        """The training loss [] of the module's docstring, with gradients."""
        batch = lesson.batch
        with autocast(self.settings, self.device), _hidden(model, lesson.hidden) as ours:
            logits = model(batch.inputs, Tokens(valid=batch.valid))[0]
        value = loss(logits, batch.targets, batch.valid, batch.rows)
        if lesson.logits is not None:
            value = value.lerp(soft_loss(logits, lesson.logits, batch.rows), TEACHER_SHARE)
        apart = [
            _distance(x, t, batch.valid)
            for name, runs in ours.items()
            for x, t in zip(runs, lesson.hidden[name], strict=False)
            if x.shape[:-1] == t.shape[:-1]
        ]
        return value + HIDDEN * torch.stack(apart).mean() if apart else value

    @torch.no_grad()
    def better(self, arch: ArchSpec, trained: Model) -> Model:
        """The trained network, or the initial one if it has a lower loss on batches outside the training."""
        began = self.start(arch).to(self.device).eval()
        lessons = [self.lesson(i, COMPARED_SEED) for i in range(COMPARED_BATCHES)]
        before, after = (sum(float(self.loss(m, le)) for le in lessons) for m in (began, trained))
        return trained if after < before else began

    @torch.no_grad()
    def _taught(self, step: int, seed: int) -> Lesson:
        size = self.settings.batch_size
        names = [f"blocks.{i}" for i in range(len(self.whole.blocks))] if self.compares_hidden else []
        if self._taught_by is not None:
            with _hidden(self.teacher, names) as hidden:
                batch = self._taught_by.batch(step, size, seed)
            return Lesson(batch.to(self.device), None, hidden)
        batch = self.task.batch(step, size, seed).to(self.device)
        with _hidden(self.teacher, names) as hidden:
            logits = self.teacher(batch.inputs, Tokens(valid=batch.valid))[0]
        return Lesson(batch, None if batch.targets.is_floating_point() else logits, hidden)


@contextmanager
def _hidden(model: Model, names: Iterable[str]) -> Iterator[Hidden]:
    """Collect the outputs of the model's blocks among `names` while the context is open, run by run."""
    found: Hidden = {name: [] for name in names if name in model.part_names}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, given: Any, result: tuple[Tensor, Any]) -> None:
            found[name].append(result[0])

        return hook

    handles = [model.part(name).register_forward_hook(watch(name)) for name in found]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _distance(ours: Tensor, theirs: Tensor, valid: Tensor | None) -> Tensor:
    """|x - t|^2 / |t|^2 of ours x [B, T, D] and theirs t [B, T, D'], over real tokens and common channels; scalar."""
    width = min(ours.shape[-1], theirs.shape[-1])
    ours, theirs = ours[..., :width].float(), theirs[..., :width].float()
    if valid is not None and valid.shape == ours.shape[:-1]:
        real = valid[..., None]
        ours, theirs = ours * real, theirs * real
    return (ours - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12)
