"""The chunked recurrence is the recurrence, whatever its decay and write rule, wherever it is cut."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.recurrence import chunk_lengths, recurrence_chunked, recurrence_reference

B, G, R, K, V = 2, 2, 2, 3, 4
LENGTHS = (1, 15, 16, 17, 63, 64, 65, 130)
MODES = [(decay, delta) for decay in ("none", "scalar", "vector") for delta in (False, True)]


def inputs(
    T: int, decay: str, delta: bool, strength: float = 1.0
) -> tuple[Any, Tensor | None, Tensor | None]:
    """([q, k, v], log decay, write strength) in float64."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(B, T, *shape, dtype=torch.float64)

    q, k, v = normal(G, R, K), normal(G, K), normal(G, V)
    log_a = None if decay == "none" else strength * F.logsigmoid(normal(G, 1 if decay == "scalar" else K))
    return [q, F.normalize(k, dim=-1) if delta else k, v], log_a, normal(G).sigmoid() if delta else None


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize(("decay", "delta"), MODES)
def test_chunked_equals_token_by_token_in_values_and_gradients(decay: str, delta: bool, T: int):
    qkv, log_a, beta = inputs(T, decay, delta)
    S = torch.randn(B, G, K, V, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (*qkv, S, log_a, beta) if t is not None]
    expected = recurrence_reference(qkv[0], qkv[1], qkv[2], log_a, S, beta)
    actual = recurrence_chunked(qkv[0], qkv[1], qkv[2], log_a, S, beta=beta)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    cotangents = [torch.randn_like(t) for t in expected]
    found = torch.autograd.grad(actual, leaves, cotangents, retain_graph=True)
    wanted = torch.autograd.grad(expected, leaves, cotangents, retain_graph=True)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("cuts", [[1, 129], [64, 66], [17, 48, 65], [100, 1, 1, 28]])
@pytest.mark.parametrize(("decay", "delta"), MODES)
def test_a_sequence_may_be_cut_anywhere(decay: str, delta: bool, cuts: Sequence[int]):
    qkv, log_a, beta = inputs(130, decay, delta)
    whole, last = recurrence_chunked(qkv[0], qkv[1], qkv[2], log_a, beta=beta)
    S, outputs, start = None, [], 0
    for length in cuts:
        part = slice(start, start + length)
        q, k, v = (t[:, part] for t in qkv)
        decay_part, beta_part = (None if t is None else t[:, part] for t in (log_a, beta))
        o, S = recurrence_chunked(q, k, v, decay_part, S, beta=beta_part)
        outputs.append(o)
        start += length
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(S, last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 16, 32, 128])
@pytest.mark.parametrize(("decay", "delta"), MODES)
def test_the_chunk_does_not_change_the_output(decay: str, delta: bool, chunk: int):
    qkv, log_a, beta = inputs(130, decay, delta)
    expected = recurrence_chunked(qkv[0], qkv[1], qkv[2], log_a, beta=beta)
    actual = recurrence_chunked(qkv[0], qkv[1], qkv[2], log_a, chunk=chunk, beta=beta)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("log_decay", [-1e-6, -6.0, -60.0])
@pytest.mark.parametrize(("decay", "delta"), MODES[2:])
def test_float32_survives_any_decay(decay: str, delta: bool, log_decay: float):
    """Some channels forget at once, others not at all."""
    qkv, log_a, beta = inputs(130, decay, delta)
    assert log_a is not None
    log_a = torch.where(torch.rand_like(log_a) < 0.5, log_decay, log_a)
    truth = recurrence_reference(qkv[0], qkv[1], qkv[2], log_a, None, beta)[0]
    q, k, v, single_a = (t.float().requires_grad_() for t in (*qkv, log_a))
    o, _ = recurrence_chunked(q, k, v, single_a, beta=None if beta is None else beta.float())
    assert (o.double() - truth).norm() <= 2e-4 * truth.norm()
    assert all(g.isfinite().all() for g in torch.autograd.grad(o.sum(), (q, k, v, single_a)))


def test_without_decay_the_delta_rule_recalls_orthonormal_keys_exactly():
    keys = torch.eye(K, dtype=torch.float64).expand(B, G, K, K).transpose(1, 2)  # token j has key e_j
    values = torch.randn(B, K, G, V, dtype=torch.float64)
    _, S = recurrence_chunked(
        keys.unsqueeze(3), keys, values, None, beta=torch.ones(B, K, G, dtype=torch.float64)
    )
    torch.testing.assert_close(S, values.transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_chunks_add_up_and_sub_chunks_are_whole():
    for T in range(1, 200):
        lengths = chunk_lengths(T)
        assert sum(lengths) == T
        assert all(length % 16 == 0 for length in lengths[:-1])
