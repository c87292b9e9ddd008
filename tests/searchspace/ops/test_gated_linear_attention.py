"""Gated linear attention between its two ends: a gate that never forgets and one that forgets at once."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.recurrence import recurrence_chunked
from tests.searchspace.ops.identities import activations, assert_equal, build, output
from tests.searchspace.ops.written_out import heads, rms

DEFINING_TERM = (
    "log_a = F.logsigmoid(gate).view_as(k) / self.temperature",
    "log_a = 0 * F.logsigmoid(gate).view_as(k)",
)
HEADS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4, "init_rank": 0}


def gated(bias: float):
    module = build("mixer", "gated_linear_attention", **HEADS)
    torch.nn.init.constant_(module.decay_bias, bias)
    return module


def test_an_open_gate_is_the_recurrence_without_decay():
    module, x = gated(1e4), activations(20)
    q, k, v, log_a = module.gated(x, Tokens())
    assert not log_a.any()
    assert_equal(output(module, x), module.output(recurrence_chunked(q, k, v, None)[0], x))


def test_a_closed_gate_leaves_each_token_alone():
    module, x = gated(-1e6), activations(20)
    assert_equal(output(module, x)[:, 7], output(module, x[:, 7:8])[:, 0])


def test_a_gate_between_forgets_in_between():
    module, x = gated(0.0), activations(20).requires_grad_()
    (gradient,) = torch.autograd.grad(output(module, x)[:, -1].sum(), x)
    assert gradient[:, 0].any()
    _, _, _, log_a = module.gated(x, Tokens())
    assert (log_a < 0).all()


def test_a_first_state_that_holds_a_prefix_continues_it():
    """S_0 = the state after a prefix, which one pair of vectors holds exactly where the prefix is one token."""
    plain, learned = (build("mixer", "gated_linear_attention", **HEADS | {"init_rank": r}) for r in (0, 1))
    x = activations(20, B=1)
    learned.load_state_dict(plain.state_dict(), strict=False)
    _, k, v, _ = plain.gated(x[:, :1], Tokens())
    with torch.no_grad():
        learned.init_keys.copy_(k.view(-1, 1))
        learned.init_values.copy_(v.view(-1, 1))
    torch.testing.assert_close(output(learned, x[:, 1:]), output(plain, x)[:, 1:], rtol=1e-9, atol=1e-9)


def test_a_first_state_of_zero_is_none():
    plain, learned = (build("mixer", "gated_linear_attention", **HEADS | {"init_rank": r}) for r in (0, 4))
    learned.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.zeros_(learned.init_values)
    x = activations()
    assert_equal(output(learned, x), output(plain, x))


def test_it_is_the_loop_of_the_paper_in_all_its_sizes():
    """S_t = diag(a_t) S_{t-1} + k v^T with a = sigmoid(W_2 W_1 x + b)^(1 / tau), values twice as wide as keys."""
    torch.manual_seed(0)
    freedoms: dict[str, Any] = {"gate_rank": 3, "temperature": 4.0, "expand_v": 2, "heads_per_group": 1}
    module = build("mixer", "gated_linear_attention", **HEADS | {"num_groups": 2} | freedoms)
    x = activations(20)
    q, k, v = heads(module.q_proj(x), 2), heads(module.k_proj(x), 2), heads(module.wide_v_proj(x), 2)
    assert module.decay_reduce.shape[0] == 3
    a = torch.sigmoid(x @ module.decay_reduce.T @ module.decay_expand.T + module.decay_bias) ** (1 / 4)
    a, o = heads(a, 2), torch.zeros_like(v)
    for b in range(2):
        for h in range(2):
            S = x.new_zeros(4, 8)
            for t in range(20):
                S = torch.diag(a[b, t, h]) @ S + torch.outer(k[b, t, h], v[b, t, h])
                o[b, t, h] = S.T @ q[b, t, h]
    gate = torch.nn.functional.silu(module.wide_gate_proj(x))
    expected = module.wide_o_proj((module.wide_norm_weight * rms(o)).flatten(2) * gate)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_saying_the_published_rank_and_temperature_changes_nothing():
    plain = build("mixer", "gated_linear_attention", **HEADS)
    said = build("mixer", "gated_linear_attention", **HEADS, gate_rank=16, temperature=16.0)
    said.load_state_dict(plain.state_dict())
    x = activations(20)
    assert_equal(output(said, x), output(plain, x))
