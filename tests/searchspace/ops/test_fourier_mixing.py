"""Fourier mixing: what orthonormal transforms must do."""

from typing import Any

import pytest
import torch

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("torch.fft.fft2(v, norm", "torch.fft.fft(v, norm")


def mixer(transform: str) -> Any:
    return build("mixer", "fourier_mixing", False, num_groups=2, head_dim=8, transform=transform)


@pytest.mark.parametrize("T", [1, 6, 9])
def test_the_cosine_transform_keeps_lengths_and_angles(T: int):
    a, b = torch.randn(2, T, 8, dtype=torch.float64)
    mixed = mixer("dct").mixed
    assert_equal((mixed(a) * mixed(b)).sum(), (a * b).sum())


@pytest.mark.parametrize("T", [1, 6, 9])
def test_the_fourier_transform_twice_is_the_mean_of_the_tokens_and_their_mirror_image(T: int):
    """F^2 = P, F F* = 1 with P : (t, k) -> (-t, -k), and Re F = (F + F*) / 2."""
    v = torch.randn(T, 8, dtype=torch.float64)
    view_of = v.flip((0, 1)).roll((1, 1), (0, 1))
    mixed = mixer("dft").mixed
    assert_equal(mixed(mixed(v)), (v + view_of) / 2)


@pytest.mark.parametrize("transform", ["dft", "dct"])
def test_constant_values_gather_in_the_first_place(transform: str):
    v = torch.full((6, 8), 3.0, dtype=torch.float64)
    expected = torch.zeros_like(v)
    expected[0, 0] = 3 * 48**0.5
    assert_equal(mixer(transform).mixed(v), expected)


@pytest.mark.parametrize("transform", ["dft", "dct"])
def test_the_mixer_is_linear(transform: str):
    module, (x, y) = mixer(transform), (activations(), activations())
    assert_equal(output(module, 2 * x - y), 2 * output(module, x) - output(module, y))
