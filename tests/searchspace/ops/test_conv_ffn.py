"""A convolutional FFN reaches its kernel and no further; with one tap it is an MLP."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("self.conv(self.up_proj(x), tokens, state)", "self.up_proj(x), state")
GELU = OpSpec("gelu")


def conv_ffn(kernel_size: int, causal: bool = True):
    return build("ffn", "conv_ffn", causal, d_ff=8, kernel_size=kernel_size, activation=GELU)


def test_one_tap_of_one_is_the_mlp():
    ffn, mlp, x = conv_ffn(1), build("ffn", "mlp", d_ff=8, activation=GELU), activations()
    mlp.load_state_dict({n: t for n, t in ffn.state_dict().items() if n != "conv.weight"})
    ffn.conv.weight.data.fill_(1.0)
    assert_equal(output(ffn, x), output(mlp, x))


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_token_reaches_its_last_tokens_and_no_further(kernel_size: int):
    x = activations(12).requires_grad_()
    (gradient,) = torch.autograd.grad(output(conv_ffn(kernel_size), x)[:, 8].sum(), x)
    reached = gradient.any(-1)[0].nonzero().flatten().tolist()
    assert reached == list(range(9 - kernel_size, 9))


@pytest.mark.parametrize("causal", [True, False])
def test_a_smaller_kernel_is_the_middle_of_a_larger_one(causal: bool):
    small, large, x = conv_ffn(3, causal), conv_ffn(5, causal), activations(20)
    weights = large.state_dict()
    kernel = weights["conv.weight"]
    for dim in range(1, kernel.ndim):
        kernel.narrow(dim, 3, 2).zero_()
    small.load_state_dict(weights | {"conv.weight": kernel[:, :3] if causal else kernel[:, :3, :3]})
    tokens = Tokens(grid=(4, 5))
    assert_equal(output(small, x, tokens), output(large, x, tokens))
