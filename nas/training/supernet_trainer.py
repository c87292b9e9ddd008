"""Supernet training: every step updates several sub-networks together, in teams of a teacher and its students.

    L = sum over the networks a of a step of l_a
    l_teacher = CE(logits, labels)          l_a = (1 - w) CE(logits_a, labels) + w KL(teacher || a)

The sampling rule chooses the networks (`nas.training.sampling`). Soft targets (w > 0) are used from the step on where
the running loss of the teachers falls below that of counting byte pairs or, in classification, half the entropy of the
classes, since before that a teacher has learned nothing useful. Each network's gradient is clipped separately, after
summation over the parts of the batch, which may be computed one after the other or by several processes.

Yu et al., "Universally Slimmable Networks and Improved Training Techniques", arXiv:1903.05134 (sandwich rule, inplace
distillation).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import NasError, UsageError
from nas.machine import num_cores
from nas.tasks.base import Batch, Task, loss
from nas.training.checkpoint import (
    SUPERNET,
    TrainingState,
    fill,
    identity,
    load_checkpoint,
    load_supernet,
    save_checkpoint,
    save_supernet,
)
from nas.training.parallel import Found, Gradients, Share, helpers
from nas.training.placement import CPU, Batches, Part, device_of_model, is_read_after
from nas.training.sampling import Team, rule
from nas.training.sandwich import Sandwich
from nas.training.settings import OptimizerSettings, TrainingSettings
from predictors.timing import num_threads
from searchspace.primitives.context import Tokens
from searchspace.recalibration import needs_recalibration, recalibrate
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec
from searchspace.supernet.supernet import Supernet

LOSS_DECAY = 0.98  # of the teachers' running loss: averages about 50 steps, or a tenth of fewer steps
BETAS = (0.9, 0.99)
FINAL_EXAMPLES, FINAL_BATCH, RECALIBRATION_BATCHES = 1024, 128, 8
FUSED = ("cpu", "cuda")  # devices where torch updates many tensors with one kernel


class TrainingDiverged(NasError):
    """A loss or gradient is not finite."""


@dataclass(frozen=True)
class Progress:
    """After `step` of `steps`: the teachers' running loss in nats and the remaining seconds."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    phase: str


@dataclass(frozen=True)
class _Unread:
    """Loss and gradient norm of each network of a step, [n, 2] float64, still on the device.

    `leads` are the indices of the teachers, whose losses are on hard labels.
    """

    step: int
    networks: list[ArchSpec]
    leads: list[int]
    values: Tensor


def train_supernet(
    space: SpaceSpec,
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    on_progress: Callable[[Progress], None] | None = None,
    device: torch.device = CPU,
) -> Supernet:
    """The trained supernet in `folder`: loaded if it is finished, else trained from its checkpoint or from the start.

    A training may continue on another device. Raises TrainingDiverged if a loss or gradient is not finite,
    ArtifactError if files in `folder` can't be used, and UsageError for several processes on another device than the
    CPU.
    """
    if (folder / SUPERNET).exists():
        return load_supernet(folder, device)
    if settings.processes > 1 and device != CPU:
        raise UsageError(
            f"training setting processes: {settings.processes} processes need a CPU; on {device.type} give 1"
        )
    with num_threads(1), helpers(settings.processes, _help, (space, task, settings, folder)) as share:
        trainer = SupernetTrainer(space, task, settings, folder, share, device)
        _steps(trainer, on_progress)
    save_supernet(folder, trainer.supernet, task, settings, trainer.final_losses())
    return trainer.supernet


def _help(share: Share, space: SpaceSpec, task: Task, settings: TrainingSettings, folder: Path) -> None:
    """The work of every further process of a training: the same steps, on its parts of each batch."""
    trainer = SupernetTrainer(space, task, settings, folder, share)
    while trainer.state.step < settings.steps:
        trainer.step()


def _steps(trainer: SupernetTrainer, on_progress: Callable[[Progress], None] | None) -> None:
    settings = trainer.settings
    first, started = trainer.state.step, time.monotonic()
    saved = started
    while trainer.state.step < settings.steps:
        trainer.step()
        if not trainer.is_read:
            continue
        now, step = time.monotonic(), trainer.state.step
        if now - saved >= settings.checkpoint_seconds:
            trainer.save()
            saved = time.monotonic()
        if on_progress is not None:
            assert trainer.state.loss is not None
            left = (now - started) / (step - first) * (settings.steps - step)
            on_progress(Progress(step, settings.steps, trainer.state.loss, left, trainer.phase))
    trainer.close()


class SupernetTrainer:
    """A supernet, its optimizer and its training state; continues from the checkpoint of `folder` if there is one."""

    def __init__(
        self,
        space: SpaceSpec,
        task: Task,
        settings: TrainingSettings,
        folder: Path,
        share: Share | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.task, self.settings, self.folder, self.device = task, settings, folder, device
        self.share = share or Share()
        self.supernet = Supernet(space, settings.seed, device)
        self.batches = Batches(
            task, settings, device, settings.accumulation, self.share.rank, self.share.processes
        )
        self.sandwich = Sandwich(space, settings.num_random, settings.seed)
        self.teams = rule(self.sandwich, settings)
        self.trained = {n: t for n, t in self.supernet.tensors.items() if t.requires_grad}
        self.optimizer = adamw(list(self.trained.values()), settings)
        self.threshold = soft_target_threshold(task)
        self.state = TrainingState()
        self._unread: list[_Unread] = []
        # one network per thread, since threads speed up no operator this small; a GPU runs one network at a time
        self._pool = (
            ThreadPoolExecutor(num_cores(), initializer=torch.set_num_threads, initargs=(1,))
            if device == CPU
            else None
        )
        self._made_from = identity(space, task, settings)
        found = load_checkpoint(folder, self._made_from)
        if found is not None:
            self.state, weights, moments = found
            fill(self.supernet, weights, folder)
            self._put_moments(moments)

    @property
    def uses_soft_targets(self) -> bool:
        return self.state.switch_step is not None

    @property
    def phase(self) -> str:
        return "soft targets" if self.uses_soft_targets else "hard labels"

    @property
    def is_read(self) -> bool:
        """Whether `state` includes the losses of all finished steps; only then it may be saved."""
        return not self._unread

    def step(self) -> None:
        """Train the networks of one step and update the weights once. Raises TrainingDiverged."""
        number = self.state.step
        rate = learning_rate(self.settings, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self._unread.append(self._accumulate(self.batches.at(number)))
        found = self._read() if is_read_after(number + 1, self.settings.steps, self.device) else []
        self.optimizer.step()
        self._advance(found)

    def _accumulate(self, parts: list[Part]) -> _Unread:
        """Add the gradients of all networks of the step."""
        teams = self.teams(self.state.step)
        networks = [arch for team in teams for arch in team]
        totals: list[Found | None] = [None] * len(networks)
        for part, weight in parts:
            for i, found in enumerate(self._of_part(teams, part, weight)):
                totals[i] = found if (before := totals[i]) is None else _sum(before, found)
        values = []
        for total in totals:
            assert total is not None
            loss_, gradients = self.share.sum(*total)
            clipped, norm = self._clipped(gradients)
            values.append(torch.stack([loss_, norm]))
            self._add(clipped)
        leads = [sum(map(len, teams[:i])) for i in range(len(teams))]
        return _Unread(self.state.step + 1, networks, leads, torch.stack(values))

    def _of_part(self, teams: list[Team], part: Batch, weight: float) -> Iterator[Found]:
        """Loss and gradients of every network, in order, on a part of the batch, weighted by the part's share."""
        tokens = Tokens(valid=part.valid, progress=self.state.step / self.settings.steps)
        pending = []
        for team in teams:
            logits = self._forward(team[0], part, tokens)
            pending.append(self._begun(self._differentiate, logits, part, None, weight))
            teacher = logits.detach() if self.uses_soft_targets else None
            pending += [self._begun(self._learn, a, part, tokens, teacher, weight) for a in team[1:]]
        for result in pending:  # in this order, whichever ends first
            yield result()

    def _begun(self, work: Callable[..., Found], *args: Any) -> Callable[[], Found]:
        """Start `work`, in a thread on a CPU; returns a function that waits for its result."""
        if self._pool is not None:
            return self._pool.submit(work, *args).result
        found = work(*args)
        return lambda: found

    def _forward(self, arch: ArchSpec, batch: Batch, tokens: Tokens) -> Tensor:
        with autocast(
            self.settings, self.device
        ):  # entered in each thread, because autocast is a state of the thread
            return self.supernet.forward(arch, batch.inputs, tokens=tokens)

    def _learn(
        self, arch: ArchSpec, part: Batch, tokens: Tokens, teacher: Tensor | None, weight: float
    ) -> Found:
        return self._differentiate(self._forward(arch, part, tokens), part, teacher, weight)

    def _differentiate(self, logits: Tensor, part: Batch, teacher: Tensor | None, weight: float) -> Found:
        if weight == 0:
            value = 0 * logits.sum()  # a part without targets, for which the mean loss is undefined
        else:
            value = loss(logits, part.targets, part.valid, part.rows)
            if teacher is not None:
                value = value.lerp(soft_loss(logits, teacher, part.rows), self.settings.soft_target_weight)
            value = value * weight
        found = torch.autograd.grad(value, list(self.trained.values()), allow_unused=True)
        # fused AdamW takes gradients in the order of memory, whatever their strides
        return value.detach().double(), [None if g is None else g.contiguous() for g in found]

    def _clipped(self, gradients: Gradients) -> tuple[Gradients, Tensor]:
        """(clipped gradients, norm []) of one network, so that large gradients do not dominate the other networks'."""
        present = [g for g in gradients if g is not None]
        norm = torch.nn.utils.get_total_norm(present, foreach=self.device.type in FUSED).double()
        scale = (torch.full_like(norm, self.settings.grad_clip) / (norm + 1e-6)).clamp(max=1.0)
        return [None if g is None else g * scale for g in gradients], norm

    def _add(self, gradients: Gradients) -> None:
        for tensor, gradient in zip(self.trained.values(), gradients, strict=True):
            if gradient is not None:
                tensor.grad = gradient if tensor.grad is None else tensor.grad.add_(gradient)

    def _read(self) -> list[float]:
        """Read the teachers' mean loss of each step not read yet. Raises TrainingDiverged if a number is not finite."""
        if not self._unread:
            return []
        values = iter(torch.cat([u.values for u in self._unread]).tolist())  # the only wait for the device
        losses = []
        for unread in self._unread:
            found = [next(values) for _ in unread.networks]
            for arch, (loss_, norm) in zip(unread.networks, found, strict=True):
                self._check_finite(unread.step, loss_, "the loss", arch)
                self._check_finite(unread.step, norm, "the gradient norm", arch)
            losses.append(sum(found[i][0] for i in unread.leads) / len(unread.leads))
        self._unread.clear()
        return losses

    def _check_finite(self, step: int, value: float, what: str, arch: ArchSpec) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"step {step}: {what} of architecture {arch.id} is {value}; "
                f"train with a learning rate smaller than {self.settings.learning_rate}"
            )

    def _advance(self, hard_losses: Sequence[float]) -> None:
        running, switch, step = self.state.loss, self.state.switch_step, self.state.step + 1
        for number, hard_loss in enumerate(hard_losses, start=step - len(hard_losses) + 1):
            decay = min(LOSS_DECAY, number / (number + 9))
            running = hard_loss if running is None else decay * running + (1 - decay) * hard_loss
            if switch is None and running < self.threshold:
                switch = step
        self.state = TrainingState(step, running, switch)

    def close(self) -> None:
        """End its threads."""
        self.batches.close()
        if self._pool is not None:
            self._pool.shutdown()

    def save(self) -> None:
        save_checkpoint(self.folder, self._made_from, self.state, self.supernet.tensors, self._moments())

    def _moments(self) -> dict[str, Tensor]:
        """The optimizer's state of every tensor that has had a gradient, by key/tensor name."""
        kept = self.optimizer.state
        return {f"{key}/{n}": value for n, t in self.trained.items() for key, value in kept[t].items()}

    def _put_moments(self, moments: dict[str, Tensor]) -> None:
        for name, value in moments.items():
            key, tensor = name.split("/", 1)
            self.optimizer.state[self.trained[tensor]][key] = value.to(self.device)

    def final_losses(self) -> dict[str, float]:
        """Held-out losses in nats of the largest and the smallest network, and the task's baselines."""
        networks = {"largest": self.sandwich.largest, "smallest": self.sandwich.smallest}
        found = {name: held_out_loss(self.supernet, arch, self.task) for name, arch in networks.items()}
        return found | self.task.baseline_losses()


def _sum(a: Found, b: Found) -> Found:
    added = [y if x is None else x if y is None else x + y for x, y in zip(a[1], b[1], strict=True)]
    return a[0] + b[0], added


def autocast(settings: OptimizerSettings, device: torch.device) -> AbstractContextManager[object]:
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def learning_rate(settings: OptimizerSettings, step: int) -> float:
    """The learning rate of `step`: linear warm-up, then a cosine decay to `min_learning_rate_ratio` of the maximum."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    low = settings.min_learning_rate_ratio
    return settings.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2)


def soft_target_threshold(task: Task) -> float:
    """The running loss in nats below which the teachers' outputs are used as soft targets."""
    if task.kind == "embedding":
        return -math.inf  # its targets are a teacher's outputs already
    baselines = task.baseline_losses()
    return baselines.get("split_bigram_entropy") or baselines["class_prior"] / 2


def soft_loss(logits: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
    """Mean KL(teacher || student) in nats per counted target; both logits [B, T, C] or [B, C]; rows: Batch.rows."""
    ours, theirs = (t.flatten(0, -2) if rows is None else t.flatten(0, -2)[rows] for t in (logits, teacher))
    ours, theirs = (F.log_softmax(t.float(), dim=-1) for t in (ours, theirs))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@torch.no_grad()
def held_out_loss(
    supernet: Supernet, arch: ArchSpec, task: Task, num_examples: int = FINAL_EXAMPLES
) -> float:
    """Mean held-out loss in nats of a sub-network with inherited weights and recalibrated statistics."""
    model = supernet.extract(arch)
    device = device_of_model(model)
    if needs_recalibration(model):
        batches = (task.batch(i, FINAL_BATCH, seed=0) for i in range(RECALIBRATION_BATCHES))
        recalibrate(model, [b.to(device).inputs for b in batches])
    total = count = 0.0
    for batch in task.validation(num_examples, FINAL_BATCH):
        size = len(batch.inputs)
        there = batch.to(device)
        logits = model(there.inputs, Tokens(valid=there.valid))[0]
        total += size * float(loss(logits, there.targets, there.valid, there.rows))
        count += size
    return total / count


def adamw(tensors: Sequence[Tensor], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW on `tensors`, `[...]` each; those with one dimension, gains and biases, are not decayed."""
    groups = [
        {"params": [t for t in tensors if t.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [t for t in tensors if t.dim() <= 1], "weight_decay": 0.0},
    ]
    is_fused = tensors[0].device.type in FUSED
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=is_fused)
