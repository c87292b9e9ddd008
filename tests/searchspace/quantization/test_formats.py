"""Roundings and their closed-form error bounds; packed weights in a state dict."""

import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from searchspace.cost import cost
from searchspace.model import Model
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext
from searchspace.primitives.integer_matmul import quantize_rows
from searchspace.primitives.number_formats import (
    affine_range,
    dequantize_blocks,
    dequantize_groups,
    pack_pairs,
    quantize_affine,
    quantize_blocks,
    quantize_fp8,
    quantize_groups,
    read,
    rounded_weight,
    stored,
    unpack_pairs,
)
from searchspace.primitives.quantized_linear import (
    OFFERED_FROM,
    QuantizedLinear,
    _int_mm_cuda,
    _int_mm_dynamic,
    implementation,
    in_multiples,
    integer_products_are_exact,
    real_formats,
    why_not_offered,
    why_simulated,
)
from searchspace.quantization.apply import apply_policy
from searchspace.quantization.gptq import gptq
from searchspace.spec.arch import Format
from searchspace.spec.workload import Workload
from tests.searchspace.quantization.networks import (
    BATCHES,
    FORMATS,
    arch_of,
    quantized,
    relative_error,
    trained,
)


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_rounded_value_is_at_most_half_a_step_away():
    w = weights(48, 96)
    codes, scale = quantize_rows(w)
    assert ((w - codes * scale[:, None]).abs() <= scale[:, None] / 2 * (1 + 1e-6)).all()
    codes, scale, offset = quantize_groups(w, 32)
    step, ends = scale.float().repeat_interleave(32, 1), 2.0**-8  # ends: of scale and offset in bfloat16
    edge = ends * (offset.float().abs().repeat_interleave(32, 1) + 8 * step)
    assert ((w - dequantize_groups(codes, scale, offset)).abs() <= step / 2 + edge).all()
    scale_, zero = affine_range(float(w.min()), float(w.max()))
    assert (
        (w - (quantize_affine(w, scale_, zero).float() - zero) * scale_).abs() <= scale_ * (0.5 + 1e-3)
    ).all()
    codes, exponent = quantize_blocks(w, 32)
    step = torch.exp2(exponent.float()).repeat_interleave(32, 1)
    assert ((w - dequantize_blocks(codes, exponent)).abs() <= step / 2).all()
    codes, scale = quantize_fp8(w)
    bound = torch.maximum(
        w.abs() * 2.0**-4, scale[:, None] * 2.0**-10
    )  # 3 bits of mantissa; subnormal below 2^-6
    assert ((w - codes.float() * scale[:, None]).abs() <= bound * (1 + 1e-6)).all()


def test_zero_is_zero_in_every_symmetric_format():
    w = weights(8, 64)
    w[:, ::3] = 0.0
    w[2] = 0.0
    for name in ("int8", "fp8", "bct", "bf16"):
        assert (read(stored(w, Format.of(name)), Format.of(name), 64)[w == 0] == 0).all()
    scale, zero = affine_range(0.3, 2.0)
    assert (quantize_affine(torch.zeros(4), scale, zero).float() - zero == 0).all()


def test_blocks_have_whole_exponents_and_blocks_of_one_lose_what_a_code_loses():
    w = weights(8, 64)
    codes, exponent = quantize_blocks(w, 1)
    assert exponent.dtype == torch.int8
    assert ((w - dequantize_blocks(codes, exponent)).abs() <= w.abs() * 2.0**-7).all()
    by_row = quantize_blocks(w, 64)
    assert by_row[1].shape == (8, 1)
    ratio = torch.exp2(by_row[1].float())[:, 0] / quantize_rows(w)[1]
    assert ((ratio >= 1) & (ratio < 2)).all()  # the next power of two: at most one bit


def test_the_integers_of_blocks_give_the_product_of_what_they_stand_for():
    x, w = weights(5, 64), weights(7, 64)
    (xc, xe), (wc, we) = quantize_blocks(x, 16), quantize_blocks(w, 16)
    pairs = torch.einsum("mbk,nbk->mnb", xc.view(5, 4, 16).long(), wc.view(7, 4, 16).long()).double()
    integer = (pairs * torch.exp2(xe[:, None].double() + we[None].double())).sum(-1)
    assert torch.equal(integer, dequantize_blocks(xc, xe).double() @ dequantize_blocks(wc, we).double().mT)


def test_pairs_of_codes_are_packed_and_unpacked():
    codes = torch.randint(0, 16, (5, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for group in (2, 32, 96):
        assert torch.equal(unpack_pairs(pack_pairs(codes, group), group), codes)


def test_the_outlier_layer_is_as_far_off_as_the_tables_of_the_method_say():
    """Relative output errors of a layer 256 x 256 with three inputs 30 times the others."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.arange(256.0)
    mixing = torch.linalg.cholesky(
        0.97 ** (steps[:, None] - steps).abs()
    )  # neighbours alike, so GPTQ has work
    x = torch.randn(2048, 256, generator=generator) @ mixing.mT
    x[:, torch.randperm(256, generator=generator)[:3]] *= 30
    w = torch.randn(256, 256, generator=generator) / 16

    def grouped(found: tuple[torch.Tensor, torch.Tensor, torch.Tensor], bits: int) -> float:
        return relative_error(x @ dequantize_groups(*found, bits).mT, x @ w.mT)

    codes, scale = quantize_rows(w)
    (xc, xs), (wc, ws) = quantize_fp8(x), quantize_fp8(w)
    fp8 = (xc.float() * xs[:, None]) @ (wc.float() * ws[:, None]).mT
    found = {
        "int8": relative_error(x @ (codes * scale[:, None]).mT, x @ w.mT),
        "int4 groups": grouped(quantize_groups(w, 64), 4),
        "int3 groups": grouped(quantize_groups(w, 64, 3), 3),
        "int4 GPTQ": grouped(gptq(w, x.mT @ x, 64), 4),
        "fp8 per row": relative_error(fp8, x @ w.mT),
    }
    stated = {
        "int8": 0.0067,
        "int4 groups": 0.0866,
        "int3 groups": 0.184,
        "int4 GPTQ": 0.0239,
        "fp8 per row": 0.0315,
    }
    off = {name: round(value / stated[name] - 1, 3) for name, value in found.items()}
    assert all(abs(o) <= 0.1 for o in off.values()), off


def outlier_layer(correlation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, of which three are 30 times the others and so much alike, and weights of a layer 256 x 256."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 256, generator=generator)
    alone, common = torch.randn(4096, 3, generator=generator), torch.randn(4096, 1, generator=generator)
    x[:, :3] = 30 * ((1 - correlation) ** 0.5 * alone + correlation**0.5 * common)
    return x, torch.randn(256, 256, generator=generator) / 16


def test_errors_by_token_follow_from_how_alike_the_outliers_are():
    """A token's step is its largest input over 127; rounding is off by step^2 / 12 on average.

    The largest square of three independent normal numbers is 1 + 2 sqrt(3) / pi on average, that of one 1. So the .0233
    that the specification states for one scale a token needs outliers that go together: independent ones give .030.
    """
    for correlation, largest in ((0.0, 1 + 2 * 3**0.5 / math.pi), (1.0, 1.0)):
        x, w = outlier_layer(correlation)
        codes, scale = quantize_rows(x)
        outlying = w[:, :3].sum(1).square().sum() if correlation else w[:, :3].square().sum()
        noise = 900 * largest / 127**2 / 12 * float(w.square().sum())
        expected = noise / float(w[:, 3:].square().sum() + 900 * outlying)
        assert relative_error(codes * scale[:, None] @ w.mT, x @ w.mT) == pytest.approx(
            expected**0.5, rel=0.04
        )
    errors = {}
    for correlation in (0.0, 0.97):
        x, w = outlier_layer(correlation)
        (xc, xs), (wc, ws) = quantize_rows(x), quantize_rows(w)
        errors[correlation] = relative_error((xc * xs[:, None]) @ (wc * ws[:, None]).mT, x @ w.mT)
    assert errors[0.97] == pytest.approx(0.0233, rel=0.1)
    assert errors[0.0] > 1.2 * 0.0233


def test_the_gradient_passes_a_rounded_weight_as_if_nothing_was_rounded():
    w = weights(8, 64).requires_grad_()
    y = (rounded_weight(w, Format.of("int4_g32")) * weights(8, 64)).sum()
    assert torch.equal(torch.autograd.grad(y, w)[0], weights(8, 64))
    fmt = Format.of("int4_g32")
    torch.testing.assert_close(rounded_weight(w, fmt), read(stored(w.detach(), fmt), fmt, 64))


@pytest.mark.parametrize("name", FORMATS)
def test_a_packed_network_reloads_bit_equal_from_safetensors(name: str, tmp_path):
    model = quantized(name)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    again = Model.from_weights(model.arch, load_file(tmp_path / "model.safetensors")).eval()
    assert torch.equal(again(BATCHES[0][0])[0], model(BATCHES[0][0])[0])
    stored_bytes = sum(t.nbytes for t in again.state_dict().values())
    assert stored_bytes == cost(model.arch, Workload()).weight_bytes


@pytest.mark.parametrize("name", FORMATS)
def test_the_kernel_computes_what_the_stored_numbers_stand_for(name: str):
    """The real implementation of few and of many tokens against the simulated one; its sums differ in order only."""
    module = quantized(name).get_submodule("blocks.0.mixer.q_proj")
    assert isinstance(module, QuantizedLinear)
    simulated = implementation(Format.of("bct"), "cpu", 1)
    for num_tokens in (1, 3, 40):
        x = weights(num_tokens, 64)
        rounding = 1e-5 if name.startswith("int8_") else 0.02 if num_tokens <= 4 or name == "bf16" else 1e-5
        expected = simulated.run(module, x)
        assert relative_error(module(x), expected) < rounding
        for N in (64, 1 << 16):  # few results and many
            how = implementation(module.format, "cpu", num_tokens, N)
            assert relative_error(how.run(module, x), expected) < rounding


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_does_not_depend_on_the_others(name: str):
    module, x = quantized(name).part("blocks.0").mixer.q_proj, weights(16, 64)
    wild = torch.cat((x[:8], 50 * x[8:]))
    assert torch.equal(module(wild)[:8], module(x)[:8])


def test_a_format_keeps_its_numbers_when_the_network_changes_dtype():
    model = quantized("int8_dynamic")
    before = {n: t.clone() for n, t in model.named_buffers()}
    model.to(torch.bfloat16)
    assert all(torch.equal(t, before[n]) for n, t in model.named_buffers())
    assert model(BATCHES[0][0])[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tensor", "value", "sentence"),
    [
        ("scale", float("nan"), r"blocks\.1\.mixer\.q_proj\.scale holds values that are not finite"),
        ("scale", -1.0, r"blocks\.1\.mixer\.q_proj\.scale holds negative scales"),
        ("x_scale", float("inf"), r"blocks\.1\.mixer\.q_proj\.x_scale holds values that are not finite"),
    ],
)
def test_corrupted_scales_are_refused_with_the_name_of_the_tensor(tensor: str, value: float, sentence: str):
    model = quantized("int8_static")
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    weights[f"blocks.1.mixer.q_proj.{tensor}"].fill_(value)
    with pytest.raises(RuntimeError, match=sentence):
        Model.from_weights(model.arch, weights)


def test_tensors_of_another_type_and_missing_scales_are_refused_by_name():
    model = quantized("int8")
    weights = dict(model.state_dict())
    weights["blocks.0.ffn.up_proj.codes"] = weights["blocks.0.ffn.up_proj.codes"].float()
    with pytest.raises(RuntimeError, match=r"up_proj\.codes is torch\.float32, it has to be torch\.int8"):
        Model.from_weights(model.arch, weights)
    del weights["blocks.0.ffn.up_proj.scale"]
    with pytest.raises(RuntimeError, match=r"Missing key.*up_proj\.scale"):
        Model.from_weights(model.arch, weights)


@pytest.mark.parametrize("name", ["int8_static", "int4_g32_gptq", "int8_dynamic_smooth"])
def test_calibration_data_that_is_no_number_is_refused_with_the_place(name: str):
    arch = arch_of(name)
    model = trained(arch)
    model.get_parameter("stem.weight").data[3] = float(
        "nan"
    )  # what a NaN feature or a broken embedding gives
    with pytest.raises(
        ValueError, match=r"calibration: blocks\.0\.mixer\.q_proj is given values that are not finite"
    ):
        apply_policy(model, arch, BATCHES)
    with pytest.raises(ValueError, match="calibration needs data"):
        apply_policy(trained(arch), arch, ())


def test_native_formats_leave_the_network_as_it_is():
    model = trained(arch_of("native"))
    assert apply_policy(model, arch_of("native")) is model


def test_the_same_batches_give_the_same_network():
    one, other = (quantized("int4_g32_gptq").state_dict() for _ in range(2))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_a_format_is_offered_from_as_many_outputs_as_were_measured_to_pay():
    """Between two measured numbers of tokens what both ask for; beyond them what the nearest asks for."""
    fmt = Format.of("int8_dynamic")
    measured = OFFERED_FROM["cpu", "int8_dynamic"]
    counts = sorted(measured)
    wanted = {count: measured[count] for count in counts} | {4 * counts[-1]: measured[counts[-1]]}
    wanted |= {a + 1: max(measured[a], measured[b]) for a, b in pairwise(counts) if a + 1 < b}
    for num_tokens, least in wanted.items():
        reason = why_not_offered(fmt, "cpu", num_tokens, least - 1)
        assert reason is not None
        assert reason.startswith(f"int8_dynamic pays on cpu from {least} outputs on for {num_tokens} tokens")
        assert why_not_offered(fmt, "cpu", num_tokens, least) == why_simulated(fmt, "cpu", num_tokens)
    assert why_not_offered(Format(), "cpu", 32, 1) is None


def test_what_has_no_kernel_says_so_and_what_would_do():
    assert "int4" in real_formats("cpu", 1)
    for num_tokens in (1, 64):
        for name in real_formats("cpu", num_tokens):
            assert why_simulated(Format.of(name), "cpu", num_tokens) is None
    few, many = (implementation(Format.of("int8_static"), "cpu", 32, N) for N in (64, 4096))
    if integer_products_are_exact("cpu"):
        assert (few.name, many.name) == ("_int_mm, static", "onednn qlinear, static")
    reason = why_simulated(Format.of("int4_g32_gptq"), "cpu", 64)
    assert reason is not None
    assert reason.startswith("int4_g32_gptq has no kernel on cpu for 64 tokens")
    assert reason.endswith("would do")
    if integer_products_are_exact("cpu"):
        assert "int8_static" in reason


def test_sizes_that_cublas_does_not_take_are_filled_with_zeros_and_change_nothing():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (19, 21), generator=generator, dtype=torch.int8)
    filled = in_multiples(codes, 8)
    assert filled.shape == (24, 24)
    assert filled.mT.is_contiguous()
    assert torch.equal(filled[:21, :19], codes.mT)
    assert not filled[21:].any()
    assert not filled[:, 19:].any()
    whole = in_multiples(codes[:16, :16].contiguous(), 8)
    assert whole.shape == (16, 16)
    context = BuildContext(d_model=21)
    linear = QuantizedLinear(Format.of("int8_dynamic"), context.linear("q", Axis.of(G=19), Axis.of(D=21)))
    x = torch.randn(20, 21, generator=generator)
    assert torch.equal(_int_mm_cuda(linear, x), _int_mm_dynamic(linear, x))
