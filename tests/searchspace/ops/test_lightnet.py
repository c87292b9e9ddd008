"""LightNet averages over time: weights that sum to 1, the same in both directions at the last token."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, build, output

DEFINING_TERM = (
    "k = (logits - log_sum[:, 1:]).exp() * real",
    "k = (logits - log_sum[:, -1:]).exp() * real",
)


def test_the_state_after_constant_values_is_that_value_in_every_channel():
    module, x = build("mixer", "lightnet", **HEADS), activations(80)
    torch.nn.init.zeros_(module.v_proj.weight)
    with torch.no_grad():
        module.v_proj.weight[:, 0] = torch.arange(8.0)
    x[..., 0] = 1.0
    state = module.init_state(2, torch.device("cpu"), torch.float64)
    _, kept = module(x, Tokens(), state)
    expected = torch.arange(8.0, dtype=torch.float64).view(1, 2, 1, 4).expand(2, 2, 4, 4)
    assert_equal(kept["S"], expected)


def test_equal_logits_give_the_running_mean():
    module, x = build("mixer", "lightnet", **HEADS), activations(50)
    torch.nn.init.zeros_(module.k_proj.weight)
    _, kept = module(x, Tokens(), module.init_state(2, torch.device("cpu"), torch.float64))
    mean = module.v_proj(x).view(2, 50, 2, 4).mean(1)
    assert_equal(kept["S"], mean.unsqueeze(2).expand(2, 2, 4, 4))


def test_the_last_token_sees_the_same_in_both_directions():
    causal, both = (build("mixer", "lightnet", causal, **HEADS) for causal in (True, False))
    both.load_state_dict(causal.state_dict())
    x = activations(40)
    torch.testing.assert_close(output(both, x)[:, -1], output(causal, x)[:, -1], rtol=1e-9, atol=1e-9)


def test_on_a_grid_what_is_read_turns_by_the_rows_and_columns_between_two_tokens():
    """MD-LRPE: sum_j sum_c silu(q_ic) w_jc cos(theta_c d_c) v_j, d_c rows for channels 0 and 1, columns for 2 and 3."""
    module, x = build("mixer", "lightnet", False, **HEADS, rotary="global"), activations(6)
    positions = Tokens(positions=torch.arange(6), grid=(2, 3))
    tokens = build("position", "rope_2d", False, base=100, dim=4)(x, positions)[1]
    rows, columns = torch.arange(6) // 3, torch.arange(6) % 3
    away = (
        torch.stack([rows[:, None] - rows, columns[:, None] - columns], -1).double().repeat_interleave(2, -1)
    )
    q = torch.nn.functional.silu(module.q_proj(x)).view(2, 6, 2, 2, 4)
    w, v = module.k_proj(x).view(2, 6, 2, 4).softmax(1), module.v_proj(x).view(2, 6, 2, 4)
    o = torch.einsum("bigrc,bjgc,ijc,bjgv->bigrv", q, w, away.cos(), v)
    assert_equal(output(module, x, tokens), module.output(o, x))


def test_adding_a_constant_to_the_logits_changes_nothing():
    module, x = build("mixer", "lightnet", **HEADS), activations(30)
    before = output(module, x)
    module.k_proj.register_forward_hook(lambda module, args, y: y + 50.0)
    torch.testing.assert_close(output(module, x), before, rtol=1e-9, atol=1e-9)
