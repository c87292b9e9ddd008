"""An ONNX file with its maps in 8 bits, by onnxruntime's own dynamic quantization.

Weights have a scale for each output channel, activations one for the whole of each call, found while it runs: no data
is needed beforehand, and what stands beside a sequence in its batch can move its numbers a little. Products of a
processor without VNNI instructions overflow at 8 bits of both, so there the weights have 7.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import UsageError
from nas.export.graph import Run
from nas.tasks.base import Batch, loss
from searchspace.model import Model
from searchspace.primitives.context import Tokens

AT_ONCE = 4  # sequences whose outputs are held together
PRODUCTS = {"MatMulInteger", "DynamicQuantizeMatMul"}


def weight_bits() -> int:
    """Bits of a weight at which this processor's products of 8-bit numbers do not overflow."""
    found = torch.cpu.get_capabilities()
    is_x86 = found["architecture"] in ("x86_64", "AMD64")
    return 8 if not is_x86 or found.get("avx512_vnni") or found.get("avx_vnni") else 7


def write_int8(source: Path, path: Path) -> int:
    """Write the file `source` to `path` with its maps in int8; returns how many they are.

    Raises UsageError where it has none.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(_not_a_hint)
    try:
        quantize_dynamic(
            source,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=weight_bits() < 8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.getLogger().removeFilter(_not_a_hint)
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    count = sum(node.op_type in PRODUCTS for node in nodes)
    if not count:
        path.unlink()
        raise UsageError("--format onnx-int8: the network has no linear map that int8 could be used for")
    return count


def _not_a_hint(record: logging.LogRecord) -> bool:
    """onnxruntime advises to run its shape inference, which finds nothing in what torch exports."""
    return "pre-processing" not in record.getMessage()


@torch.inference_mode()
def quality(run: Run, model: Model, batches: Sequence[Batch]) -> dict[str, float]:
    """Mean loss of `run` and of the network itself on the batches, and the mean cosine of their outputs."""
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
    """[N, C] at real tokens."""
    if outputs.dim() == 3 and valid is not None and valid.dim() == 2:
        return outputs[valid]
    return outputs.flatten(0, -2)
