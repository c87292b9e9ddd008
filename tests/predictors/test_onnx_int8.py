"""Maps in onnxruntime's own int8: torch computes the same numbers, and a network's file has just those maps in int8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from predictors.onnx_graphs import Graphs
from predictors.onnx_int8 import with_int8, write_int8
from predictors.onnx_network import network_graph
from predictors.onnx_session import session, session_call
from searchspace.contracts import cases
from searchspace.model import Model
from searchspace.primitives.number_formats import quantize_reduced, quantize_tensor
from searchspace.primitives.quantized_linear import QuantizedLinear
from searchspace.quantization.apply import apply_policy, quantized_parts, read_back
from searchspace.spec.arch import ArchSpec, Format, OpSpec, QuantPolicy
from tests.searchspace.archs import BLOCK, decoder

INT8 = Format.of("int8_onnx")
ALL = QuantPolicy(tuple((role, INT8) for role in ("down", "k", "o", "q", "up", "v")))


def arch_of(*policies: QuantPolicy) -> ArchSpec:
    block = replace(BLOCK, projection=OpSpec.of("dense", bias=True))
    return decoder(*(replace(block, quant=policy) for policy in policies))


def judged(arch: ArchSpec) -> Model:
    torch.manual_seed(0)
    native = Model(arch.unquantized).eval().requires_grad_(False)
    return apply_policy(native, arch).requires_grad_(False)


def computed(model: Model, inputs: torch.Tensor) -> tuple[NDArray[np.float32], onnx.ModelProto]:
    graph = network_graph(read_back(model), inputs, Graphs())
    quantized = with_int8(graph, quantized_parts(model.arch))
    (outputs,) = session_call(session(quantized, 1), [inputs])()
    return outputs, quantized


def test_rounding_follows_the_equations_of_onnx() -> None:
    """DynamicQuantizeLinear-11, and weights of onnxruntime.quantization in a reduced range, in float64."""
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) + 0.3
    given = x.double().numpy()
    scale = (max(given.max(), 0) - min(given.min(), 0)) / 255
    zero = np.round(-min(given.min(), 0) / scale)
    codes = np.clip(np.round(given / scale) + zero, 0, 255)
    found, step = quantize_tensor(x)
    assert float(step) == pytest.approx(scale, rel=1e-6)
    assert np.array_equal(found.numpy(), codes - zero)
    weight_codes, weight_scale = quantize_reduced(x)
    by_row = np.abs(given).max(1) / 64
    assert weight_scale.numpy() == pytest.approx(by_row, rel=1e-6)
    assert np.array_equal(weight_codes.numpy(), np.round(given / by_row[:, None]))
    assert int(weight_codes.abs().max()) == 64
    assert torch.equal(quantize_tensor(torch.zeros(3))[0], torch.zeros(3))
    assert torch.equal(quantize_reduced(torch.zeros(2, 3))[1], torch.ones(2))


def one_map() -> tuple[QuantizedLinear, onnx.ModelProto]:
    """A map with what its stored weights stand for, as a graph that turns the weights round."""
    own = judged(arch_of(ALL)).get_submodule("blocks.0.ffn.up_proj")
    assert isinstance(own, QuantizedLinear)
    weight = (own.codes.float() * own.scale[:, None]).numpy()
    given = {"up_proj.weight": weight, "up_proj.bias": own.tensors["bias"].numpy()}
    nodes = [
        helper.make_node("Transpose", ["up_proj.weight"], ["turned"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["product"], "product"),
        helper.make_node("Add", ["product", "up_proj.bias"], ["y"], "add"),
    ]
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 9, width])
        for n, width in (("x", own.K), ("y", own.N))
    ]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in given.items()]
    graph = helper.make_graph(nodes, "map", ends[:1], ends[1:], constants)
    return own, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_one_map_is_that_of_onnxruntime(tmp_path: Path) -> None:
    """Of the same inputs to a few units in the last place: whole numbers are summed on both sides."""
    own, model = one_map()
    assert write_int8(model, tmp_path / "int8.onnx", ["up_proj"]) == 1
    x = torch.randn(2, 9, own.K, generator=torch.Generator().manual_seed(0)) + 0.2
    (theirs,) = session_call(session(onnx.load(tmp_path / "int8.onnx"), 1), [x])()
    ours = own(x).numpy()
    assert np.abs(ours - theirs).max() <= 4 * np.finfo(np.float32).eps * np.abs(ours).max()


@pytest.mark.slow
def test_a_network_with_some_blocks_in_int8_is_the_file_of_just_those_maps() -> None:
    arch = arch_of(QuantPolicy(), ALL)
    assert arch.formats == ("int8_onnx",)
    model = judged(arch)
    inputs = torch.randint(0, 11, (2, 16), generator=torch.Generator().manual_seed(1))
    theirs, file = computed(model, inputs)
    ours = model(inputs)[0].numpy()
    far = float(np.linalg.norm(ours - model_without(model)(inputs)[0].numpy()))
    assert np.linalg.norm(ours - theirs) < 0.2 * far  # rounding differs by a unit here and there, no more
    products = [n.name for n in file.graph.node if n.op_type == "MatMulInteger"]
    assert len(products) == len(quantized_parts(arch)) == 6


def test_products_with_tables_of_each_head_stay_as_they_are(tmp_path: Path) -> None:
    """The four maps of each of two blocks and the two of its FFN are in int8, and the head."""
    items = {"num_groups": 2, "heads_per_group": 1, "head_dim": 8, "span": 8, "max_distance": 32}
    mixer = OpSpec.of("disentangled_attention", terms="both", **items)
    arch = cases.network(cases.Case("mixer", mixer, cases.BIDIRECTIONAL), on_text=True)
    torch.manual_seed(0)
    model = Model(arch).eval().requires_grad_(False)
    cases.randomize(model)
    inputs = torch.randint(0, 16, (2, 20))
    native, path = network_graph(model, inputs, Graphs()), tmp_path / "int8.onnx"
    mask = torch.ones_like(inputs)
    (expected,) = session_call(session(native, 1), [inputs, mask])()
    np.testing.assert_allclose(expected, model(inputs)[0], rtol=1e-4, atol=1e-5)
    assert write_int8(native, path) == 2 * 6 + 1
    (found,) = session_call(session(onnx.load(path), 1), [inputs, mask])()
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def model_without(model: Model) -> Model:
    torch.manual_seed(0)
    return Model(model.arch.unquantized).eval().requires_grad_(False)


def test_a_map_that_the_graph_does_not_have_is_named() -> None:
    _, model = one_map()
    with pytest.raises(ValueError, match=r"no int8 product for blocks\.3\.mixer\.q_proj"):
        with_int8(model, ["blocks.3.mixer.q_proj"])
