"""Liger is the mean of a softmax window and a recurrence, both of which have other names."""

from typing import Any

import torch

from searchspace.primitives import banded
from searchspace.primitives.context import Tokens
from searchspace.primitives.recurrence import recurrence_chunked
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("log_a = F.logsigmoid(k) / self.tau", "log_a = 0 * k")


def liger(window: int) -> Any:
    return build("mixer", "liger", **HEADS, window=window, tau=8)


def halves(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(recurrent, window), each [B, T, D] through the output projection."""
    q, k, v = module.queries_keys_values(x)
    o, _ = recurrence_chunked(*module.gated(q, k, v, Tokens()))
    near = banded.divided(*banded.banded_reference(q.unflatten(2, (2, 2)), k, v, module.window, None))
    return module.o_proj(o.flatten(2)), module.o_proj(near.flatten(2))


def test_it_is_the_mean_of_window_and_recurrence():
    module, x = liger(5), activations(30)
    recurrent, near = halves(module, x)
    torch.testing.assert_close(output(module, x), (recurrent + near) / 2, rtol=1e-9, atol=1e-9)


def test_the_window_half_is_the_softmax_layer_that_gave_the_weights():
    module, teacher, x = liger(5), attention(window=5), activations(30)
    module.load_state_dict(teacher.state_dict())
    torch.testing.assert_close(
        2 * output(module, x) - halves(module, x)[0], output(teacher, x), rtol=1e-9, atol=1e-9
    )


def test_the_gate_of_a_channel_is_its_own_key():
    module, x = liger(5), activations(3)
    q, k, v = module.queries_keys_values(x)
    _, features, _, log_a = module.gated(q, k, v, Tokens())
    assert_equal(log_a, torch.sigmoid(k).log() / 8)
    assert_equal(features.sum(-1), torch.ones_like(features[..., 0]))
