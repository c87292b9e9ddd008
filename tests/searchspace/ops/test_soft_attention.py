"""Softmax-free attention: Newton's inverse, and the Gaussian kernel that it makes cheap."""

import pytest
import torch

from searchspace.ops.latent.soft_attention import RIDGE, gauss, newton_inverse
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("V = 2 * V - V @ P @ V", "V = 1.5 * V - 0.5 * V @ P @ V")


def kernel_matrix(n: int = 12) -> torch.Tensor:
    points = torch.randn(3, n, 6, dtype=torch.float64)
    return gauss(points, points) + RIDGE * torch.eye(n, dtype=torch.float64)


def test_the_gaussian_kernel_is_that_of_the_distance():
    x, y = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    assert_equal(gauss(x, y), (-0.5 * torch.cdist(x, y).square()).exp())


def test_twenty_steps_invert_what_five_do_not():
    """Points close to each other: the smallest eigenvalue is that of the ridge, the largest that of a sum of ones."""
    points = 0.1 * torch.randn(3, 40, 6, dtype=torch.float64)
    eye = torch.eye(40, dtype=torch.float64)
    P = gauss(points, points) + RIDGE * eye
    assert (newton_inverse(P, 20) @ P - eye).abs().max() < 1e-8
    assert (newton_inverse(P, 5) @ P - eye).abs().max() > 0.5


def test_the_gradient_is_that_of_the_inverse():
    P = kernel_matrix().requires_grad_()
    cotangent = torch.randn_like(P)
    (found,) = torch.autograd.grad(newton_inverse(P), P, cotangent)
    inverse = torch.linalg.inv(P.detach())
    torch.testing.assert_close(found, -inverse.mT @ cotangent @ inverse.mT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("stride", "normalized"), [(1, False), (2, False), (2, True)])
def test_landmarks_and_kernels_are_those_of_the_formula(stride: int, normalized: bool):
    """Each landmark from its window by a plain product; O = E P^-1 E^T V, normalized E D^-1/2 P^-1 D^-1/2 E^T V."""
    x, settings = activations(24), {"stride": stride, "normalized": normalized}
    module = build("mixer", "soft_attention", False, num_groups=2, head_dim=4, conv=False, **settings)
    q = (module.q_proj(x) / 4**0.25).view(2, 4, 6, 2, 4)
    v = module.v_proj(x).view(2, 24, 2, 4)
    windows = q.unfold(1, stride, stride).unfold(2, stride, stride)  # [B, r, c, G, K, s, s]
    a = torch.einsum("brcgiyx,oiyx->brcgo", windows, module.landmark_conv)
    a = (a - a.mean(-1, keepdim=True)) / (a.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    a = torch.nn.functional.gelu(a).flatten(1, 2).transpose(1, 2)
    E = (-0.5 * torch.cdist(q.flatten(1, 2).transpose(1, 2), a).square()).exp()
    P = (-0.5 * torch.cdist(a, a).square()).exp() + RIDGE * torch.eye(a.shape[2], dtype=a.dtype)
    share = P.sum(-1, keepdim=True).sqrt() if normalized else torch.ones_like(P[..., :1])
    y = E @ (torch.linalg.solve(P, (E.mT @ v.transpose(1, 2)) / share) / share)
    expected = module.o_proj(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(output(module, x, Tokens(grid=(4, 6))), expected, rtol=1e-6, atol=1e-6)


def test_landmarks_at_the_queries_give_the_full_kernel():
    """E = P without the ridge, so E P^-1 E^T -> the kernel of the tokens themselves, smoothed by the ridge."""
    q = torch.randn(1, 10, 6, dtype=torch.float64)
    kernel = gauss(q, q)
    low_rank = kernel @ newton_inverse(kernel + 1e-3 * torch.eye(10, dtype=torch.float64), 30) @ kernel.mT
    assert (low_rank - kernel).abs().max() <= 1e-3
