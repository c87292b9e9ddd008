"""SmoothQuant and GPTQ: what each leaves equal, and its error bounds."""

import pytest
import torch

from searchspace.primitives.number_formats import dequantize_groups, quantize_groups
from searchspace.quantization.apply import apply_policy
from searchspace.quantization.gptq import gptq
from searchspace.quantization.reparameterize import smooth
from tests.searchspace.quantization.networks import BATCHES, arch_of, quantized, relative_error, trained


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_smoothing_leaves_what_the_network_computes(norm: str):
    model = trained(arch_of("native", norm=norm))
    smoothed = smooth(model, ["blocks.0.mixer", "blocks.1.ffn"], BATCHES)
    name = "blocks.0.mixer_norm_in.weight"
    assert not torch.allclose(smoothed.state_dict()[name], model.state_dict()[name], rtol=0.01)
    torch.testing.assert_close(smoothed(BATCHES[0][0])[0], model(BATCHES[0][0])[0], rtol=1e-5, atol=1e-5)


def test_smoothing_makes_static_ranges_fit_outlying_channels():
    """Channels 30 times the others, made by the norm before: one scale for all of them loses most of the rest."""
    inputs = BATCHES[0][0]
    errors = {}
    for name in ("int8_static", "int8_static_smooth"):
        arch = arch_of(name)
        model = trained(arch)
        for block in (0, 1):
            for sublayer in ("mixer", "ffn"):
                model.part(f"blocks.{block}")._modules[f"{sublayer}_norm_in"].weight[:3] *= 30
        errors[name] = relative_error(apply_policy(model, arch, BATCHES)(inputs)[0], model(inputs)[0])
    assert errors["int8_static_smooth"] < 0.5 * errors["int8_static"]


def test_gptq_is_closer_on_the_calibration_data_than_rounding(generator: torch.Generator):
    x = torch.randn(512, 24, generator=generator) @ torch.randn(24, 96, generator=generator)
    x = x + 0.1 * torch.randn(512, 96, generator=generator)
    w = torch.randn(40, 96, generator=generator)
    for bits in (3, 4):
        by_gptq = dequantize_groups(*gptq(w, x.mT @ x, 32, bits), bits)
        rounded = dequantize_groups(*quantize_groups(w, 32, bits), bits)
        assert relative_error(x @ by_gptq.mT, x @ w.mT) < 0.6 * relative_error(x @ rounded.mT, x @ w.mT)


def test_gptq_rounds_to_the_nearest_where_inputs_are_independent():
    w = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    by_gptq, rounded = gptq(w, torch.eye(64), 32), quantize_groups(w, 32)
    assert all(torch.equal(a, b) for a, b in zip(by_gptq, rounded, strict=True))


def test_gptq_takes_inputs_that_are_always_zero(generator: torch.Generator):
    x, w = torch.randn(64, 50, generator=generator), torch.randn(8, 50, generator=generator)
    x[:, 7] = 0.0
    found = dequantize_groups(*gptq(w, x.mT @ x, 16))[:, :50]
    assert found.isfinite().all()
    assert relative_error(x @ found.mT, x @ w.mT) < 0.2


def test_gptq_in_a_network_is_closer_than_rounding():
    inputs, plain = BATCHES[0][0], quantized("native")(BATCHES[0][0])[0]
    by_gptq, rounded = (relative_error(quantized(n)(inputs)[0], plain) for n in ("int4_g32_gptq", "int4_g32"))
    assert by_gptq < 0.8 * rounded
