"""The traps of quantization in PyTorch that are known to give wrong numbers without an error."""

import os
import subprocess
import sys

import pytest
import torch

from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext
from searchspace.primitives.integer_matmul import quantize_rows
from searchspace.primitives.quantized_linear import (
    QuantizedLinear,
    implementation,
    integer_products_are_exact,
)
from searchspace.quantization.apply import apply_policy
from searchspace.quantization.reparameterize import smooth
from searchspace.spec.arch import Format, QuantPolicy
from tests.searchspace.quantization.networks import (
    BATCHES,
    FORMATS,
    arch_of,
    quantized,
    relative_error,
    trained,
)

OLD_CPU = """
import torch
from searchspace.primitives.quantized_linear import implementation, integer_products_are_exact
from searchspace.spec.arch import Format
from tests.searchspace.quantization.networks import BATCHES, quantized, relative_error
assert not integer_products_are_exact("cpu")
for name in ("int8_dynamic", "int8_static"):
    assert not implementation(Format.of(name), "cpu", 64).is_real
    model, plain = quantized(name), quantized("native")
    print(relative_error(model(BATCHES[0][0])[0], plain(BATCHES[0][0])[0]))
"""


def test_integer_products_that_saturate_are_found_at_start_up_and_not_used():
    """Trap 1, where oneDNN is told that the processor has no VNNI: 16-bit sums of 255 * 127."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OLD_CPU]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(float(error) < 0.03 for error in done.stdout.split())


@pytest.mark.parametrize("name", FORMATS)
def test_inputs_stay_as_they_are_and_a_second_call_gives_the_same(name: str):
    """Trap 2: a block that starts with the residual must not write into what it is given."""
    block = quantized(name).get_submodule("blocks.0")
    x = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    first = block(x, BATCHES[0][1])[0]
    assert torch.equal(x, before)
    assert torch.equal(block(x, BATCHES[0][1])[0], first)


def test_dynamic_activations_use_all_eight_bits():
    """Trap 3: torch.ao's dynamic quantization keeps one bit back, .0165-.0215 instead of .0086-.0143."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(128, 768, generator=generator), torch.randn(96, 768, generator=generator) / 28
    codes, _ = quantize_rows(x)
    assert (codes.int().abs().amax(-1) == 127).all()
    module = quantized("int8_dynamic").get_submodule("blocks.0.ffn.up_proj")
    assert isinstance(module, QuantizedLinear)
    y = implementation(module.format, "cpu", 128).run(_with_weight(module, w), x)
    assert relative_error(y, x @ w.mT) < 0.0143


def test_weights_are_packed_as_out_times_in():
    """Trap 6: a transposed view works only where the matrix is square, so N and K differ here."""
    for name in ("int8_static", "int8_dynamic"):
        for K, N in ((64, 24), (24, 64)):
            context = BuildContext(K, quant=QuantPolicy((("up", Format.of(name)),)))
            module = context.linear("up", Axis.of(F=N), Axis.of(D=K))
            assert isinstance(module, QuantizedLinear)
            x = torch.rand(40, K, generator=torch.Generator().manual_seed(0))
            expected = implementation(Format.of("bct"), "cpu", 1).run(module, x)
            assert relative_error(module(x), expected) < 1e-6


def test_smoothing_is_refused_where_more_than_linear_maps_read_the_norm():
    """Trap 8: in post placement the norm is the residual stream itself."""
    for placement in ("post", "peri"):
        arch = arch_of("int8_static_smooth", placement=placement)
        with pytest.raises(ValueError, match=r"blocks\.0\.ffn: smoothing folds into a norm with a weight"):
            apply_policy(trained(arch), arch, BATCHES)
    model = trained(arch_of("native"))
    mixer = model.get_submodule("blocks.1.mixer")
    attend = mixer.forward
    mixer.forward = lambda x, *rest: (attend(x, *rest)[0] + x, None)  # a tap beside the projections
    with pytest.raises(ValueError, match=r"blocks\.1\.mixer: its norm is read by more than linear maps"):
        smooth(model, ["blocks.1.mixer"], BATCHES)


def test_the_self_test_knows_this_processor():
    if torch.cpu._is_vnni_supported():
        assert integer_products_are_exact("cpu")


def _with_weight(module, w):
    module.codes, module.scale = quantize_rows(w)
    module.N, module.K = w.shape
    return module
