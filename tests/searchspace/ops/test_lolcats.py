"""LoLCATs: softmax attention in a large window; outside of it each key is counted once."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = (
    "late_k, late_v = (F.pad(t, (0, 0, 0, 0, 1, 0))[:, :T] for t in (k, v))",
    "late_k, late_v = k, v",
)


def test_a_window_over_the_whole_sequence_is_the_teacher():
    module, teacher, x = build("mixer", "lolcats", **HEADS, window=30), attention(), activations(30)
    module.load_state_dict(teacher.state_dict(), strict=False)
    torch.testing.assert_close(output(module, x), output(teacher, x), rtol=1e-9, atol=1e-9)


def test_constant_values_come_out_whatever_the_weights_are():
    module, x = build("mixer", "lolcats", **HEADS, window=4), activations(30)
    with torch.no_grad():
        module.v_proj.weight.zero_()
        module.v_proj.weight[:, 0] = torch.arange(8.0)
    x[..., 0] = 1.0
    expected = module.o_proj(torch.arange(8.0, dtype=torch.float64).view(2, 1, 4).expand(2, 2, 4).flatten())
    assert_equal(output(module, x), expected.expand(2, 30, -1))


@pytest.mark.parametrize("pieces", [[30], [1] * 30, [3, 1, 7, 19]])
def test_a_key_leaves_the_window_once(pieces: list[int]):
    """Features of keys sum to 2, so the state's count of keys is twice those that have left."""
    module, x = build("mixer", "lolcats", **HEADS, window=4), activations(30)
    state, start = module.init_state(2, torch.device("cpu"), torch.float64), 0
    for length in pieces:
        _, state = module(x[:, start : start + length], Tokens(), state)
        start += length
        expected = torch.full((2, 2), 2.0 * max(0, start - 3), dtype=torch.float64)
        assert_equal(state["S"][..., -1].sum(-1), expected)


def test_without_a_window_gate_only_older_keys_count():
    module, x = build("mixer", "lolcats", **HEADS, window=4), activations(30).requires_grad_()
    torch.nn.init.constant_(module.window_gate, -1e4)
    (gradient,) = torch.autograd.grad(output(module, x)[:, 20].sum(), x)
    reached = gradient.any(-1)[0]
    assert reached[:17].all()
    assert not reached[17:20].any()
