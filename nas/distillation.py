"""Distillation: trains a pretrained network on its task and on a teacher's outputs, at a small learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nas.errors import UsageError
from nas.setup.preparation import OnStep, Step
from nas.tasks.base import Task, loss
from nas.training.placement import Batches, is_read_after
from nas.training.settings import OptimizerSettings
from nas.training.supernet_trainer import adamw, learning_rate, soft_loss
from searchspace.model import Model
from searchspace.primitives.context import Tokens

TEACHER_SHARE = 0.5
RATE_RATIO = 0.1  # of the learning rate that the network was trained with


def finetune_settings(trained_with: OptimizerSettings, steps: int) -> OptimizerSettings:
    """Settings for finetuning: a tenth of the learning rate, warmed up over a tenth of the steps.

    Raises UsageError for less than 1 step.
    """
    if steps < 1:
        raise UsageError(f"--finetune {steps}: give at least 1 step")
    rate = RATE_RATIO * trained_with.learning_rate
    return OptimizerSettings(
        steps, trained_with.batch_size, rate, warmup_steps=max(1, steps // 10), seed=trained_with.seed
    )


def distill(
    model: Model,
    tensors: Sequence[Tensor],
    teacher: Callable[[Tensor, Tokens], Tensor],
    task: Task,
    settings: OptimizerSettings,
    on_step: OnStep = lambda step: None,
    name: str = "finetuning",
) -> None:
    """Train `tensors`, `[...]` each, of `model` in place and on their device.

    Half of the loss is the divergence from the logits [B, T, C] or [B, C] of `teacher(inputs, tokens)`. The network
    stays in evaluation mode, with the stored statistics that it is used with afterwards.
    """
    optimizer = adamw(tensors, replace(settings, weight_decay=0.0))
    device = tensors[0].device
    batches = Batches(task, settings, device)
    for step in range(settings.steps):
        batch = batches.at(step)[0][0]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        tokens = Tokens(valid=batch.valid)
        logits = model(batch.inputs, tokens)[0]
        value = hard = loss(logits, batch.targets, batch.valid, batch.rows)
        if not batch.targets.is_floating_point():  # embedding targets are a teacher's outputs already
            with torch.no_grad():
                taught = teacher(batch.inputs, tokens)
            value = hard.lerp(soft_loss(logits, taught, batch.rows), TEACHER_SHARE)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tensors, settings.grad_clip)
        optimizer.step()
        if is_read_after(step + 1, settings.steps, device):
            on_step(Step(name, step + 1, settings.steps, f"loss {hard.item():.3f}"))
    batches.close()
