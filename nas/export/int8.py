"""An ONNX file with its linear maps in int8, and its quality compared with the float network.

`predictors.onnx_int8` defines the rounding. An activation has one scale per call, so the other sequences of a batch
affect a sequence's outputs slightly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import ArtifactError, UsageError
from nas.export.graph import Run
from nas.tasks.base import Batch, loss
from predictors import onnx_int8
from searchspace.model import Model
from searchspace.primitives.context import Tokens

AT_ONCE = 4  # sequences whose outputs are in memory at once
LEAST_COSINE = (
    0.995  # between outputs of a file and of the network that was evaluated with the same maps in int8
)


def write_int8(source: Path, path: Path, maps: Collection[str] | None = None) -> int:
    """Write the file `source` to `path` with `maps` (None: all) in int8; returns the number of these maps.

    Raises UsageError if there are none.
    """
    import onnx

    try:
        count = onnx_int8.write_int8(onnx.load(str(source)), path, maps)
    except ValueError as error:
        raise UsageError(f"--format onnx-int8: {error}") from error
    if not count:
        raise UsageError("--format onnx-int8: the network has no linear map that supports int8")
    return count


def check_as_judged(path: Path, found: dict[str, float]) -> None:
    """Raises ArtifactError if a file with `quality` `found` deviates from the network evaluated with maps in int8."""
    if not found["cosine"] >= LEAST_COSINE:
        raise ArtifactError(
            f"{path.name}: its outputs have a mean cosine of {found['cosine']:.4f} to those of the network that was "
            f"judged, at least {LEAST_COSINE} is required"
        )


@torch.inference_mode()
def quality(run: Run, model: Model, batches: Sequence[Batch]) -> dict[str, float]:
    """Mean loss in nats of `run` ("loss") and of the network ("float_loss"), and mean "cosine" of their outputs."""
    total, own, cosine, targets, outputs = 0.0, 0.0, 0.0, 0, 0
    for some in (part for batch in batches for part in _parts(batch)):
        theirs = run(some.inputs, None if some.valid is None else some.valid.long())
        ours = model(some.inputs, Tokens(valid=some.valid))[0]
        weight = int(some.counted.sum())
        total += weight * float(loss(theirs, some.targets, some.valid))
        own += weight * float(loss(ours, some.targets, some.valid))
        targets += weight
        seen = _rows(ours, some.valid), _rows(theirs, some.valid)
        cosine += float(F.cosine_similarity(*seen, dim=-1).sum())
        outputs += len(seen[0])
    return {"loss": total / targets, "float_loss": own / targets, "cosine": cosine / outputs}


def _parts(batch: Batch) -> list[Batch]:
    starts = range(0, len(batch.inputs), AT_ONCE)
    cuts = [slice(start, start + AT_ONCE) for start in starts]
    valid = batch.valid
    return [Batch(batch.inputs[c], batch.targets[c], None if valid is None else valid[c]) for c in cuts]


def _rows(outputs: Tensor, valid: Tensor | None) -> Tensor:
    """The outputs [N, C] at real tokens."""
    if outputs.dim() == 3 and valid is not None and valid.dim() == 2:
        return outputs[valid]
    return outputs.flatten(0, -2)
