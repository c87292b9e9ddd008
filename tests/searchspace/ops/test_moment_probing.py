"""A moment-probing head reads the mean and the covariances of the tokens, whatever their order."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("centred = (z - (share * z).sum(1, keepdim=True))", "centred = z")


def head():
    module = build("head", "moment_probing", causal=False, num_classes=3, num_heads=3, head_dim=5)
    module.bias.data.normal_()
    return module


def covariances(module, x):
    return module.covariances(x, torch.full((*x.shape[:2], 1), 1 / x.shape[1], dtype=x.dtype))


def test_the_order_of_the_tokens_does_not_matter():
    module, x = head(), activations()
    assert_equal(module(x[:, torch.randperm(9)], Tokens()), module(x, Tokens()))


def test_covariances_are_those_of_adjacent_heads():
    module, x = head(), activations()
    normed = torch.nn.functional.layer_norm(x, (12,), module.weight, module.bias)
    z = normed @ module.moment_proj.weight.T
    for b in range(2):
        whole = torch.cov(z[b].T, correction=0)
        for h in range(2):
            block = whole[5 * h : 5 * h + 5, 5 * h + 5 : 5 * h + 10]
            expected = block / block.norm()
            torch.testing.assert_close(covariances(module, x)[b, h], expected, rtol=1e-6, atol=1e-6)


def test_one_token_has_no_covariance_and_finite_gradients():
    module, x = head(), activations(1).requires_grad_()
    assert covariances(module, x).abs().max() < 1e-9
    expected = module.proj(x[:, 0]) / 2
    assert_equal(module(x, Tokens()), expected)
    assert torch.autograd.grad(module(x, Tokens()).sum(), x)[0].isfinite().all()


def test_padding_is_left_out():
    module, x = head(), activations(9)
    valid = (torch.arange(9) < 6).expand(2, 9)
    assert_equal(module(x, Tokens(valid=valid)), module(x[:, :6], Tokens()))
