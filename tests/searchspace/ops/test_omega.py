"""The Omega rule: the delta rule at a window of one, regression on the window beyond."""

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from searchspace.primitives.recurrence import recurrence_chunked
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, build, output

DEFINING_TERM = ("A = alpha * eye - weighted @ keys.mT", "A = alpha * eye - 0 * (weighted @ keys.mT)")


def test_a_window_of_one_that_keeps_everything_is_the_delta_rule():
    module, x = build("mixer", "omega", **HEADS, window=1, degree=1), activations(40)
    torch.nn.init.constant_(module.keep_bias, 1e4)
    q, k, v, gamma = module.pairs(x, Tokens())
    _, eta = module.steps(x, Tokens())
    o, _ = recurrence_chunked(q, k, v, None, beta=eta * gamma)
    torch.testing.assert_close(output(module, x), module.output(o), rtol=1e-9, atol=1e-9)


def test_the_first_step_writes_the_first_pair():
    module, x = build("mixer", "omega", **HEADS, window=4, degree=2), activations(1)
    torch.nn.init.zeros_(module.rate_weight)  # eta = sigmoid(0) / 4
    _, kept = module(x, Tokens(), module.init_state(2, torch.device("cpu"), torch.float64))
    _, k, v, gamma = module.pairs(x, Tokens())
    expected = 0.125 * gamma[:, 0, :, None, None] * k[:, 0].unsqueeze(-1) * v[:, 0].unsqueeze(-2)
    assert_equal(kept["S"], expected)


def test_with_momentum_it_is_the_loop_of_the_paper():
    """M_t = theta M_{t-1} + the gradient at S_{t-1} of the last c pairs, S_t = alpha S_{t-1} - eta M_t."""
    module, x = build("mixer", "omega", **HEADS, window=4, degree=1, momentum=True), activations(40, B=1)
    q, k, v, gamma = (t[0] for t in module.pairs(x, Tokens()))
    alpha, eta = (t[0] for t in module.steps(x, Tokens()))
    theta = torch.sigmoid(x[0] @ module.momentum_weight.T)
    o = torch.zeros_like(q)
    for g in range(2):
        S, M = torch.zeros(4, 4).double(), torch.zeros(4, 4).double()
        for t in range(40):
            seen = slice(max(0, t - 3), t + 1)
            fit = (gamma[seen, g, None] * (k[seen, g] @ S - v[seen, g])).T  # [V, pairs]
            M = theta[t, g] * M + (fit @ k[seen, g]).T
            S = alpha[t, g] * S - eta[t, g] * M
            o[t, g] = q[t, g] @ S
    torch.testing.assert_close(output(module, x), module.output(o[None]), rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), module.double().output(o[None]), rtol=1e-4, atol=1e-4)


def test_repeating_pairs_of_the_window_are_learned_by_heart():
    """Gradient steps on the same few pairs converge to a memory that answers each key with its value."""
    module = build("mixer", "omega", **HEADS, window=4, degree=1)
    torch.nn.init.constant_(module.keep_bias, 1e4)
    x = activations(2, B=1).repeat(1, 600, 1)
    _, kept = module(x, Tokens(), module.init_state(1, torch.device("cpu"), torch.float64))
    _, k, v, _ = module.pairs(x[:, :2], Tokens())
    answers = torch.einsum("btgk,bgkv->btgv", k, kept["S"])
    assert (answers - v).norm() <= 0.05 * v.norm()


def test_features_have_norm_one_at_any_degree():
    for degree in (1, 2, 3):
        module = build("mixer", "omega", **HEADS, window=4, degree=degree)
        k = module.pairs(activations(5), Tokens())[1]
        assert F.mse_loss(k.norm(dim=-1), torch.ones_like(k[..., 0])) < 1e-4
