"""Training a supernet: every step updates the largest, the smallest and some random sub-networks together.

    L = sum over the networks a of a step of l_a
    l_largest = CE(logits, labels)          l_a = (1 - w) CE(logits_a, labels) + w KL(largest || a)

Soft targets (w > 0) begin once the running loss of the largest beats what counting byte pairs reaches, half the
entropy of the classes in a classification: before that the largest has nothing to teach. Each network's gradient is
clipped on its own.

Yu et al., "Universally Slimmable Networks and Improved Training Techniques", arXiv:1903.05134 (sandwich rule, inplace
distillation).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import NasError
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
from nas.training.sandwich import Sandwich
from nas.training.settings import OptimizerSettings, TrainingSettings
from predictors.timing import num_threads
from searchspace.primitives.context import Tokens
from searchspace.recalibration import needs_recalibration, recalibrate
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec
from searchspace.supernet.supernet import Supernet

LOSS_DECAY = 0.98  # of the running loss of the largest: about the last 50 steps, or the last tenth of fewer
BETAS = (0.9, 0.99)
FINAL_EXAMPLES, FINAL_BATCH, RECALIBRATION_BATCHES = 1024, 128, 8

Gradients = list[Tensor | None]  # of every trained tensor, None where a network does not use it


class TrainingDiverged(NasError):
    """A loss or gradient is not finite."""


@dataclass(frozen=True)
class Progress:
    """After `step` of `steps`: the running loss of the largest network and the seconds that are left."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    phase: str


def train_supernet(
    space: SpaceSpec,
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> Supernet:
    """The trained supernet, kept in `folder`: loaded where it is finished, continued where it was interrupted.

    Raises TrainingDiverged where a loss is not finite, and ArtifactError where what `folder` holds can't be used.
    """
    if (folder / SUPERNET).exists():
        return load_supernet(folder)
    with num_threads(1):
        return _train(SupernetTrainer(space, task, settings, folder), on_progress)


def _train(trainer: SupernetTrainer, on_progress: Callable[[Progress], None] | None) -> Supernet:
    settings = trainer.settings
    first, started = trainer.state.step, time.monotonic()
    saved = started
    while trainer.state.step < settings.steps:
        trainer.step()
        now, step = time.monotonic(), trainer.state.step
        if now - saved >= settings.checkpoint_seconds:
            trainer.save()
            saved = time.monotonic()
        if on_progress is not None:
            assert trainer.state.loss is not None
            left = (now - started) / (step - first) * (settings.steps - step)
            on_progress(Progress(step, settings.steps, trainer.state.loss, left, trainer.phase))
    trainer.pool.shutdown()
    save_supernet(trainer.folder, trainer.supernet, trainer.task, settings, trainer.final_losses())
    return trainer.supernet


class SupernetTrainer:
    """A supernet, its optimizer and where they stand; continues from the checkpoint of `folder` where there is one."""

    def __init__(self, space: SpaceSpec, task: Task, settings: TrainingSettings, folder: Path) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.supernet = Supernet(space, settings.seed)
        self.sandwich = Sandwich(space, settings.num_random, settings.seed)
        self.trained = {n: t for n, t in self.supernet.tensors.items() if t.requires_grad}
        self.optimizer = adamw(list(self.trained.values()), settings)
        self.threshold = soft_target_threshold(task)
        self.state = TrainingState()
        # a network a thread: operators this small gain nothing from sharing one among threads
        self.pool = ThreadPoolExecutor(num_cores(), initializer=torch.set_num_threads, initargs=(1,))
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

    def step(self) -> None:
        """Train the networks of one step and update the weights once."""
        number = self.state.step
        batch = self.task.batch(number, self.settings.batch_size, self.settings.seed)
        rate = learning_rate(self.settings, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        hard_loss = self._accumulate(batch)
        self.optimizer.step()
        self._advance(hard_loss)

    def _accumulate(self, batch: Batch) -> float:
        """Add the gradients of all networks of the step. Returns the loss of the largest on hard labels."""
        largest, *others = self.sandwich.at(self.state.step)
        tokens = Tokens(valid=batch.valid, progress=self.state.step / self.settings.steps)
        logits = self._forward(largest, batch, tokens)
        hard = loss(logits, batch.targets, batch.valid)
        teacher = logits.detach() if self.uses_soft_targets else None

        def gradients(arch: ArchSpec) -> Gradients:
            if arch is largest:
                return self._gradients(hard, arch)
            student = self._student_loss(self._forward(arch, batch, tokens), batch, teacher)
            return self._gradients(student, arch)

        for found in self.pool.map(gradients, (largest, *others)):  # added in this order, whoever ends first
            self._add(found)
        return hard.item()

    def _forward(self, arch: ArchSpec, batch: Batch, tokens: Tokens) -> Tensor:
        with autocast(self.settings):  # in each thread anew: it holds for the thread that enters it
            return self.supernet.forward(arch, batch.inputs, tokens=tokens)

    def _student_loss(self, logits: Tensor, batch: Batch, teacher: Tensor | None) -> Tensor:
        hard = loss(logits, batch.targets, batch.valid)
        if teacher is None:
            return hard
        return hard.lerp(soft_loss(logits, teacher, batch.counted), self.settings.soft_target_weight)

    def _gradients(self, value: Tensor, arch: ArchSpec) -> Gradients:
        """Clipped network by network, so that one with large gradients does not drown the others."""
        self._check_finite(value.item(), "the loss", arch)
        tensors = list(self.trained.values())
        found = torch.autograd.grad(value, tensors, allow_unused=True)
        norm = float(torch.nn.utils.get_total_norm([g for g in found if g is not None], foreach=True))
        self._check_finite(norm, "the gradient norm", arch)
        scale = min(1.0, self.settings.grad_clip / (norm + 1e-6))
        return [None if g is None else g * scale for g in found]

    def _add(self, gradients: Gradients) -> None:
        for tensor, gradient in zip(self.trained.values(), gradients, strict=True):
            if gradient is not None:
                tensor.grad = gradient if tensor.grad is None else tensor.grad.add_(gradient)

    def _check_finite(self, value: float, what: str, arch: ArchSpec) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"step {self.state.step + 1}: {what} of architecture {arch.id} is {value}; "
                f"train with a learning rate smaller than {self.settings.learning_rate}"
            )

    def _advance(self, hard_loss: float) -> None:
        before, switch, step = self.state.loss, self.state.switch_step, self.state.step + 1
        decay = min(LOSS_DECAY, step / (step + 9))
        running = hard_loss if before is None else decay * before + (1 - decay) * hard_loss
        if switch is None and running < self.threshold:
            switch = step
        self.state = TrainingState(step, running, switch)

    def save(self) -> None:
        save_checkpoint(self.folder, self._made_from, self.state, self.supernet.tensors, self._moments())

    def _moments(self) -> dict[str, Tensor]:
        """The optimizer's state of every tensor that has had a gradient, as key/tensor name."""
        kept = self.optimizer.state
        return {f"{key}/{n}": value for n, t in self.trained.items() for key, value in kept[t].items()}

    def _put_moments(self, moments: dict[str, Tensor]) -> None:
        for name, value in moments.items():
            key, tensor = name.split("/", 1)
            self.optimizer.state[self.trained[tensor]][key] = value

    def final_losses(self) -> dict[str, float]:
        """Held-out losses of the largest and the smallest with inherited weights, and the task's baselines."""
        networks = {"largest": self.sandwich.largest, "smallest": self.sandwich.smallest}
        found = {name: held_out_loss(self.supernet, arch, self.task) for name, arch in networks.items()}
        return found | self.task.baseline_losses()


def autocast(settings: OptimizerSettings) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16")


def learning_rate(settings: OptimizerSettings, step: int) -> float:
    """Linear warmup, then half a cosine down to `min_learning_rate_ratio`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    low = settings.min_learning_rate_ratio
    return settings.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2)


def soft_target_threshold(task: Task) -> float:
    """The loss below which the largest network has something to teach."""
    baselines = task.baseline_losses()
    return baselines.get("split_bigram_entropy") or baselines["class_prior"] / 2


def soft_loss(logits: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean KL(teacher || student) per counted target in nats. logits, teacher: [..., C]; counted: [...]."""
    if counted is not None and not counted.all():
        logits, teacher = logits[counted], teacher[counted]
    ours, theirs = (F.log_softmax(t.float().flatten(0, -2), dim=-1) for t in (logits, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@torch.no_grad()
def held_out_loss(
    supernet: Supernet, arch: ArchSpec, task: Task, num_examples: int = FINAL_EXAMPLES
) -> float:
    """Mean loss of a sub-network with inherited weights, its statistics measured anew."""
    model = supernet.extract(arch)
    if needs_recalibration(model):
        recalibrate(model, [task.batch(i, FINAL_BATCH, seed=0).inputs for i in range(RECALIBRATION_BATCHES)])
    total = count = 0.0
    for batch in task.validation(num_examples, FINAL_BATCH):
        size = len(batch.inputs)
        total += size * float(loss(model(batch.inputs)[0], batch.targets, batch.valid))
        count += size
    return total / count


def adamw(tensors: Sequence[Tensor], settings: OptimizerSettings) -> torch.optim.AdamW:
    """Gains and biases are not decayed."""
    groups = [
        {"params": [t for t in tensors if t.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [t for t in tensors if t.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)
