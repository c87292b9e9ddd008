"""SmoothQuant, RepQuant, GPTQ and integer arithmetic: what each leaves equal, and its error bounds."""

import math

import pytest
import torch
from torch.nn import functional as F

from searchspace.primitives.number_formats import dequantize_groups, quantize_groups
from searchspace.quantization import integer_only as integer
from searchspace.quantization.apply import apply_policy
from searchspace.quantization.gptq import gptq
from searchspace.quantization.reparameterize import one_range, smooth
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


def test_one_range_for_all_channels_gives_the_codes_of_their_own_ranges(generator: torch.Generator):
    """RepQuant: with whole zero points the codes are the same, and without rounding so is the output."""
    K = 32
    x = torch.randn(64, K, generator=generator, dtype=torch.float64) * torch.logspace(-1, 1, K) + 1
    weight, bias = torch.rand(2, K, generator=generator, dtype=torch.float64) + 0.5
    linear = torch.randn(8, K, generator=generator, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    normed = F.layer_norm(x, (K,), weight, bias)
    scale = (normed.amax(0) - normed.amin(0)) / 255
    zero = (-normed.amin(0) / scale).round()
    new_norm, new_linear, s, z = one_range((weight, bias), linear, scale, zero)
    new_normed = F.layer_norm(x, (K,), *new_norm)
    torch.testing.assert_close(
        F.linear(new_normed, *new_linear), F.linear(normed, *linear), rtol=1e-9, atol=1e-9
    )
    own, common = (normed / scale).round() + zero, (new_normed / s).round() + z
    assert isinstance(z, int)
    assert (own == common).double().mean() > 0.999  # a value on the edge of two codes may fall either way
    assert ((common >= 0) & (common <= 255)).all()


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


def test_integer_gelu_and_exp_are_within_the_errors_of_their_polynomials():
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    assert (integer.gelu(integer.to_whole(x, 16)).value - F.gelu(x)).abs().max() < 0.0185
    x = -x.abs()
    assert (integer.exp(integer.to_whole(x, 16)).value - x.exp()).abs().max() < 0.0021
    coarse = integer.to_whole(x, 8)
    assert (integer.exp(coarse).value - coarse.value.exp()).abs().max() < 0.0305


def test_integer_softmax_sums_to_one_and_keeps_the_order(generator: torch.Generator):
    x = 4 * torch.randn(16, 64, generator=generator)
    whole = integer.to_whole(x, 16)
    y = integer.softmax(whole)
    assert (y.value.sum(-1) - 1).abs().max() < 0.002
    assert (y.value - x.double().softmax(-1)).abs().max() < 0.003
    assert y.q.max() <= 2**16
    order = whole.q.argsort(-1)
    assert (y.q.gather(-1, order).diff(dim=-1) >= 0).all()
    flat = integer.softmax(integer.to_whole(x / 4, 16), bits=8)
    assert (flat.value.sum(-1) < 0.96).all()  # rounding down in 8 bits loses mass


def test_the_integer_square_root_is_exact():
    n = torch.tensor([1, 2, 3, 4, 15, 16, 17, 10**6, 10**12 - 1, 10**12, 10**15, 2**50 + 1])
    assert integer.sqrt(n).tolist() == [math.isqrt(int(i)) for i in n]


def test_the_integer_layer_norm_is_within_rounding(generator: torch.Generator):
    x = torch.randn(32, 128, generator=generator)
    weight, bias = torch.rand(128, generator=generator) + 0.5, torch.randn(128, generator=generator)
    expected = F.layer_norm(x, (128,), weight, bias).double()
    for bits, bound in ((8, 0.06), (16, 0.002)):
        codes = integer.to_whole(x, bits)
        y = integer.layer_norm(codes, weight, bias, integer.norm_shift(codes))
        assert (y.value * weight - expected).abs().max() < bound


def test_another_scale_is_at_most_one_code_off(generator: torch.Generator):
    x = integer.to_whole(torch.randn(1000, generator=generator), 16)
    for ratio in (3.7, 100.0, 0.3):
        found = integer.requantize(x, x.scale * ratio)
        assert (found.q - (x.q.double() / ratio).round()).abs().max() <= 1


def test_nothing_but_whole_numbers_passes_through(generator: torch.Generator):
    x = integer.to_whole(torch.randn(4, 16, generator=generator), 16)
    normed = integer.layer_norm(x, torch.ones(16), torch.zeros(16), integer.norm_shift(x))
    for y in (integer.gelu(x), integer.softmax(x), normed):
        assert y.q.dtype == torch.int64
