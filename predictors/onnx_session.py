"""onnxruntime sessions on the CPU, and calls of them for timing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from predictors.timing import Call


def session(model: Any, threads: int) -> Any:
    """Return a CPU session with onnxruntime's default optimizations and `threads` threads.

    `model` is an ONNX model or the path of one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while waiting for a call would take the cores from whatever is timed in alternation.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = model if isinstance(model, str | Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def network_feeds(made: Any, inputs: Tensor) -> list[Tensor]:
    """Return the inputs of a network's session: ids [B, T] or pixels, and a mask [B, T] of ones where it takes one."""
    return [inputs, torch.ones_like(inputs)][: len(made.get_inputs())]


def session_call(made: Any, inputs: Sequence[Tensor]) -> Call:
    """Return a call of the session on these inputs [B, ...], ready to be timed; it returns numpy arrays."""
    given = {value.name: tensor.numpy() for value, tensor in zip(made.get_inputs(), inputs, strict=True)}
    return lambda: made.run(None, given)
