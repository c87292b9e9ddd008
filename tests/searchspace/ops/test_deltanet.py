"""DeltaNet: what is written is recalled, what isn't written changes nothing."""

from typing import Any

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.recurrence import recurrence_chunked
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = (
    "v = _solved(k, beta.unsqueeze(-1) * (v - old), beta, total)",
    "v = _solved(k, beta.unsqueeze(-1) * v, beta, total)",
    "searchspace/primitives/recurrence.py",
)
SETTINGS: dict[str, Any] = {
    "num_groups": 2,
    "heads_per_group": 1,
    "head_dim": 4,
    "conv_taps": 4,
    "beta_max": 1,
}


def written(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(q, k, v, beta) that the recurrence of `module` sees."""
    mixed = [conv(projection(x), Tokens())[0] for _, projection, conv in module.paths()]
    return *module.unit_keys(*mixed), module.gates(x, Tokens())[0]


def test_queries_and_keys_have_norm_one():
    q, k, _, beta = written(build("mixer", "deltanet", **SETTINGS), activations(20))
    for t in (q, k):
        torch.testing.assert_close(t.norm(dim=-1), torch.ones_like(t[..., 0]), rtol=1e-3, atol=1e-3)
    assert ((beta > 0) & (beta < 1)).all()


@pytest.mark.parametrize("T", [20, 70])
def test_a_full_write_is_recalled_at_once(T: int):
    """With beta = 1 the state answers its newest key with exactly its newest value, whatever it held before."""
    _, k, v, beta = written(build("mixer", "deltanet", **SETTINGS), activations(T))
    k = torch.nn.functional.normalize(k, dim=-1)
    o, _ = recurrence_chunked(k.unsqueeze(3), k, v, None, beta=torch.ones_like(beta))
    torch.testing.assert_close(o.squeeze(3), v, rtol=1e-9, atol=1e-9)


def test_writing_the_same_pair_twice_in_full_is_writing_it_once():
    _, k, v, beta = written(build("mixer", "deltanet", **SETTINGS), activations(6))
    k, full = torch.nn.functional.normalize(k, dim=-1), torch.ones_like(beta)
    _, once = recurrence_chunked(k.unsqueeze(3), k, v, None, beta=full)
    last: Any = [t[:, -1:] for t in (k.unsqueeze(3), k, v)]
    _, twice = recurrence_chunked(last[0], last[1], last[2], None, once, beta=full[:, -1:])
    assert_equal(twice, once)


def test_a_strength_of_two_reflects_the_state():
    """I - 2 k k^T keeps every length, so with values of 0 the state keeps its norm."""
    _, k, v, beta = written(build("mixer", "deltanet", **SETTINGS | {"beta_max": 2}), activations(70))
    k = torch.nn.functional.normalize(k, dim=-1)
    S = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    _, after = recurrence_chunked(
        k.unsqueeze(3), k, torch.zeros_like(v), None, S, beta=2 * torch.ones_like(beta)
    )
    torch.testing.assert_close(after.norm(dim=(2, 3)), S.norm(dim=(2, 3)), rtol=1e-9, atol=1e-9)


def test_nothing_written_gives_nothing():
    module, x = build("mixer", "deltanet", **SETTINGS), activations(20)
    torch.nn.init.zeros_(module.v_proj.weight)
    assert_equal(output(module, x), torch.zeros_like(x))
