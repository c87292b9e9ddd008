"""ViG's mixer: without forgetting it is linear attention over all tokens, with the token itself counted once."""

from typing import Any

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from searchspace.primitives.recurrence import sum_over_all
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = (
    "return self.output((o + back.flip(1)) / 2, local, x), None",
    "return self.output(o, local, x), None",
)
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 1, "head_dim": 4}
GRID = Tokens(grid=(4, 5))


def vig(bias: float) -> Any:
    module = build("mixer", "vig", causal=False, **HEADS)
    for way in ("decay", "backward_decay"):
        torch.nn.init.constant_(getattr(module, f"{way}_bias"), bias)
    return module


def test_without_forgetting_all_tokens_are_summed_and_the_token_itself_once():
    module, x = vig(1e4), activations(20)
    q, k, v = module.features(x, GRID)
    itself = (q * k.unsqueeze(3)).sum(-1, keepdim=True) * v.unsqueeze(3)
    expected = (sum_over_all(q, k, v) + itself) / 2
    local, _ = module.v_conv_2d(v.flatten(2), GRID)
    torch.testing.assert_close(
        output(module, x, GRID), module.output(expected, local, x), rtol=1e-9, atol=1e-9
    )


def test_with_equal_gates_a_reversed_image_gives_the_reversed_output():
    """The kernel of the convolution has to turn with the image."""
    module, x = vig(0.0), activations(20)
    with torch.no_grad():
        for part in ("reduce", "expand"):
            getattr(module, f"backward_decay_{part}").copy_(getattr(module, f"decay_{part}"))
    forward = output(module, x, GRID)
    with torch.no_grad():  # taps are stored 0, 1, -1: turning exchanges the last two
        module.v_conv_2d.weight.copy_(module.v_conv_2d.weight[:, [0, 2, 1]][:, :, [0, 2, 1]].clone())
    torch.testing.assert_close(output(module, x.flip(1), GRID), forward.flip(1), rtol=1e-9, atol=1e-9)


def test_forgetting_at_once_leaves_the_token_and_its_neighbourhood():
    module, x = vig(-1e6), activations(20).requires_grad_()
    (gradient,) = torch.autograd.grad(output(module, x, GRID)[:, 7].sum(), x)  # row 1, column 2
    reached = gradient.any(-1)[0].view(4, 5)
    expected = F.pad(torch.ones(3, 3), (1, 1, 0, 1)).bool()
    assert torch.equal(reached, expected)


def test_each_direction_is_gated_linear_attention():
    module, x = vig(0.0), activations(20)
    causal = build("mixer", "gated_linear_attention", **HEADS, init_rank=0)
    causal.load_state_dict({n: t for n, t in module.state_dict().items() if n in causal.state_dict()})
    q, k, v, log_a = causal.gated(x, GRID)
    assert_equal(log_a, module.log_decay(x, GRID, "decay"))
    assert_equal(
        torch.cat((q.flatten(), k.flatten())), torch.cat([t.flatten() for t in module.features(x, GRID)[:2]])
    )
