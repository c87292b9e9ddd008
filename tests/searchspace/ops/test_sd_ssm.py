"""The selective dense state space: an automaton where it is told to be one, and never louder than before at p = 1."""

from itertools import permutations
from typing import Any

import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.dense_scan import dense_scan
from tests.searchspace.ops.identities import activations, build

DEFINING_TERM = (
    "size = (A.square() + EPS**2).sqrt().pow(self.p).sum(-2, keepdim=True).pow(1 / self.p)",
    "size = (A.square() + EPS**2).sqrt().pow(self.p).sum(-1, keepdim=True).pow(1 / self.p)",
)


def sd_ssm(**items: Any) -> Any:
    return build("mixer", "sd_ssm", **{"state_dim": 6, "num_matrices": 6, "norm_tenths": 10} | items)


def test_permutations_chosen_one_by_one_are_multiplied_without_error():
    """The six permutations of three things, as permutation matrices, over a thousand steps."""
    group = [torch.eye(3, dtype=torch.float64)[list(p)] for p in permutations(range(3))]
    module = sd_ssm(state_dim=3)
    with torch.no_grad():
        module.dictionary.copy_(torch.stack(group))
        module.select_weight.zero_()
        module.select_weight[:6, :6] = 1e3 * torch.eye(6)
    word = torch.randint(0, 6, (1000,))
    A, _ = module.steps(torch.nn.functional.one_hot(word, 12).double().unsqueeze(0), Tokens())
    start = torch.tensor([[[1.0], [2.0], [3.0]]], dtype=torch.float64)
    states, _ = dense_scan(A, torch.zeros(1, 1000, 3, 1, dtype=torch.float64), start)
    h = start[0, :, 0]
    for t, letter in enumerate(word.tolist()):
        h = group[letter] @ h
        torch.testing.assert_close(states[0, t, :, 0], h, rtol=0, atol=1e-2)


def test_at_p_one_no_transition_makes_the_state_louder():
    A, _ = sd_ssm().steps(activations(30), Tokens())
    assert (A.abs().sum(-2) <= 1 + 1e-12).all()
    h = torch.randn(2, 30, 6, 1, dtype=torch.float64)
    assert ((A @ h).abs().sum(-2) <= h.abs().sum(-2) + 1e-12).all()


def test_one_matrix_makes_every_step_the_same():
    A, _ = sd_ssm(num_matrices=1).steps(activations(5), Tokens())
    assert torch.equal(A, A[:1, :1].expand_as(A))
