"""Sessions of onnxruntime on the CPU, and one run of them as a call that can be timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from predictors.timing import Call


def session(model: Any, threads: int) -> Any:
    """An onnxruntime session on the CPU with its own default optimizations and `threads` threads.

    `model` is an ONNX model, or the path of a file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait in a loop for the next call would take the cores from what is timed in alternation.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = model if isinstance(model, str | Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def network_feeds(made: Any, inputs: Tensor) -> list[Tensor]:
    """What a session of a network takes: ids or pixels, and where it takes a mask one of sequences without padding."""
    return [inputs, torch.ones_like(inputs)][: len(made.get_inputs())]


def session_call(made: Any, inputs: Sequence[Tensor]) -> Call:
    """One run on these inputs, ready to be timed; gives arrays of numpy."""
    given = {value.name: tensor.numpy() for value, tensor in zip(made.get_inputs(), inputs, strict=True)}
    return lambda: made.run(None, given)
