"""8-bit linear maps of an ONNX model by onnxruntime's dynamic quantization: the format int8_onnx.

Weights are quantized per output channel. Activations are quantized per call, with a range found at run time: no
calibration data is needed, but other sequences in the batch can slightly change a sequence's results. Weights use 7
bits on every processor, because products of 8-bit numbers on both sides overflow without VNNI instructions and a file
may run anywhere. `searchspace.primitives.quantized_linear` computes the same in torch.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

PRODUCTS = {"MatMul", "Gemm"}
SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter records a node's module


def with_int8(model: Any, maps: Collection[str]) -> Any:
    """Return the ONNX model with these linear maps in int8, each named by its path such as `blocks.0.ffn.up_proj`.

    Raises ValueError naming a map for which the model has no matrix product.
    """
    import onnx

    with TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        write_int8(model, path, maps)
        return onnx.load(str(path))


def write_int8(model: Any, path: Path, maps: Collection[str] | None = None) -> int:
    """Write an ONNX model, which is modified in place, with these linear maps (None: all) in int8.

    Returns the number of quantized maps. Raises ValueError as `with_int8` does.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _turn_weights(model)
    # A table for each head is no linear map: onnxruntime would round it and then refuse to run it.
    held = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    products = [n for n in model.graph.node if n.op_type in PRODUCTS and n.input[1] in held]
    if maps is not None:
        by_map = {m: [n for n in products if _is_of(n, m)] for m in maps}
        missing = [m for m, nodes in by_map.items() if not nodes]
        if missing:
            raise ValueError(f"onnxruntime has no int8 product for {missing[0]}")
        products = [n for nodes in by_map.values() for n in nodes]
    if not products:
        return 0
    logging.getLogger().addFilter(_not_a_hint)
    try:
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=sorted(PRODUCTS),
            nodes_to_quantize=list(_names(products)),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.getLogger().removeFilter(_not_a_hint)
    return len(products)


def _names(nodes: list[Any]) -> Iterator[str]:
    """The node names that onnxruntime uses: it first turns a Gemm into a MatMul with another name."""
    for node in nodes:
        yield node.name
        if node.op_type == "Gemm":
            yield f"{node.name}_MatMul"


def _is_of(node: Any, path: str) -> bool:
    """Match by the name of the weight or, where it was folded away, by the module that the node was traced from."""
    weight = node.input[1].removesuffix(TURNED)
    if weight == f"{path}.weight" or weight.endswith(f".{path}.weight"):
        return True
    scopes = next((p.value for p in node.metadata_props if p.key == SCOPES), "")
    return f"'{path}'" in scopes or f".{path}'" in scopes


TURNED = ".turned"


def _turn_weights(model: Any) -> None:
    """Store transposed weights as constants, because onnxruntime quantizes only constants."""
    import onnx

    held = {tensor.name: tensor for tensor in model.graph.initializer}
    turns = [n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in held]
    for node in turns:
        source = held[node.input[0]]
        array = onnx.numpy_helper.to_array(source)
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        name = f"{source.name}{TURNED}"
        if name not in held:
            held[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(array.transpose(order)), name)
            model.graph.initializer.append(held[name])
        for reader in model.graph.node:
            reader.input[:] = [name if given == node.output[0] else given for given in reader.input]
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)


def _not_a_hint(record: logging.LogRecord) -> bool:
    """Drop onnxruntime's advice to run shape inference, which adds nothing to models that torch exports."""
    return "pre-processing" not in record.getMessage()
