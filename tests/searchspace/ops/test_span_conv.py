"""Span-based dynamic convolution beside attention."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, attention, build, output

DEFINING_TERM = ("self.span_kernel_proj(q.flatten(2) * span)", "self.span_kernel_proj(q.flatten(2))")


def mixer(**items: Any) -> Any:
    settings: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4, "kernel_size": 5}
    return build("mixer", "span_conv", False, **(settings | items))


@torch.no_grad()
def test_without_the_convolution_it_is_attention():
    both, plain = mixer(), attention(False)
    plain.load_state_dict(both.state_dict(), strict=False)
    both.conv_o_proj.weight.zero_()
    x = activations()
    assert_equal(output(both, x), output(plain, x))


@torch.no_grad()
def test_equal_logits_give_the_mean_over_the_window_with_zeros_outside():
    module, x = mixer(), activations(T=9)
    module.span_kernel_proj.weight.zero_()
    module.o_proj.weight.zero_()
    u = module.conv_v_proj(x)
    means = [u[:, max(0, t - 2) : t + 3].sum(1) / 5 for t in range(9)]
    assert_equal(output(module, x), module.conv_o_proj(torch.stack(means, 1)))


@torch.no_grad()
def test_one_large_logit_takes_the_value_at_its_offset():
    """Tap 1 is the next token: W_f is such that its logit is far above the others at every token."""
    module, x = mixer(kernel_size=9), activations(T=9)
    module.o_proj.weight.zero_()
    for proj in (module.q_proj, module.span_proj):
        proj.weight.copy_(proj.weight[:1].expand_as(proj.weight))  # the same value in every channel
    module.span_taps.zero_()
    module.span_taps[:, 0] = 1.0  # the span is the token
    ahead = (module.q_proj(x) * module.span_proj(x))[
        ..., 0
    ].sign()  # which sign the product has at each token
    module.span_kernel_proj.weight.zero_()
    module.span_kernel_proj.weight.view(4, 9, 16)[:, 1] = 1e9
    u = torch.nn.functional.pad(module.conv_v_proj(x), (0, 0, 0, 1))
    expected = module.conv_o_proj(u[:, 1:])
    positive = ahead > 0
    assert positive.any()
    assert_equal(output(module, x)[positive], expected[positive])


def test_the_convolution_reaches_half_a_kernel_to_both_sides():
    module, x = mixer(), activations(T=9).requires_grad_()
    q = module.q_proj(x.detach()).unflatten(2, (4, 4))
    y = module.convolved(q, x, Tokens())
    (gradient,) = torch.autograd.grad(y[:, 4].square().sum(), x)
    assert [t for t in range(9) if gradient[:, t].any()] == [2, 3, 4, 5, 6]
