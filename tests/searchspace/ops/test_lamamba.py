"""LaMamba: windows that tile the image, and shift by half in every second layer."""

from typing import Any

import pytest
import torch

from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.registry import build as build_op
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import D, activations, attention, output

DEFINING_TERM = ("number = (at + self.shift) // self.window", "number = at // self.window")
SETTINGS: dict[str, Any] = {
    "num_groups": 2,
    "heads_per_group": 2,
    "head_dim": 4,
    "expand": 1,
    "num_states": 4,
    "directions": 4,
}
GRID = Tokens(grid=(8, 8))


def lamamba(window: int, layer: int = 0) -> Any:
    """Without the scan."""
    context = BuildContext(D, layer=layer, num_layers=2, causal=False, layout=Layout(64, (8, 8)))
    module: Any = build_op("mixer", OpSpec.of("lamamba", **SETTINGS, window=window), context).double()
    torch.nn.init.zeros_(module.cross_scan.inner_down_proj.weight)
    return module


@pytest.mark.parametrize(("layer", "rows"), [(0, range(0, 4)), (1, range(2, 6))])
def test_a_token_sees_its_window(layer: int, rows: range):
    x = activations(64).requires_grad_()
    y = output(lamamba(4, layer), x, GRID)
    (gradient,) = torch.autograd.grad(y[:, 3 * 8 + 3].sum(), x)
    reached = gradient.any(-1)[0].view(8, 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[rows.start : rows.stop, rows.start : rows.stop] = True
    assert torch.equal(reached, expected)


def test_one_window_without_bias_and_scan_is_softmax_attention():
    module, plain, x = lamamba(8), attention(causal=False), activations(64)
    plain.load_state_dict({n: t for n, t in module.state_dict().items() if n in plain.state_dict()})
    normed = module.between(x, torch.zeros_like(x))
    torch.testing.assert_close(output(module, x, GRID), output(plain, normed, GRID), rtol=1e-9, atol=1e-9)


def test_a_bias_for_an_offset_moves_the_attention_there():
    """A large bias for `the key is one column to the left` makes every token copy its neighbour's value."""
    module, x = lamamba(8), activations(64)
    with torch.no_grad():
        module.window_bias[:, 0, 1] = 1e3
    values = module.merge_heads(module.per_head(module.queries_keys_values(module.between(x, 0 * x))[2]))
    y = output(module, x, GRID).view(2, 8, 8, D)
    torch.testing.assert_close(y[:, :, 1:], values.view(2, 8, 8, D)[:, :, :-1], rtol=1e-9, atol=1e-9)
