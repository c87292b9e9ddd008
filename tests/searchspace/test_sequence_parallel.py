"""Three processes that share a sequence compute, value by value and gradient by gradient, what one computes alone.

Three, because with two no state passes over a rank in between.
"""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from searchspace import sequence_parallel
from searchspace.primitives import recurrence

RANKS = 3
EVEN, UNEVEN = [10, 10, 10], [5, 18, 7]
G, R, K, V = 2, 2, 4, 3
Inputs = list[Tensor]
Run = Callable[..., Any]


def sample(*shape: int) -> Tensor:
    return torch.randn(2, 30, *shape, dtype=torch.float64)


def operands() -> Inputs:
    return [sample(G, R, K), sample(G, K), sample(G, V)]


def decay(width: int) -> Tensor:
    return F.logsigmoid(sample(G, width))


def recurrent(run: Run, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None = None) -> Tensor:
    found = run(q, k, v, log_a)
    return found[0] if isinstance(found, tuple) else found


def delta(run: Run, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor | None = None) -> Tensor:
    found = run(q, F.normalize(k, dim=-1), v, log_a, beta=beta.sigmoid())
    return found[0] if isinstance(found, tuple) else found


def attention(causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.transpose(1, 2), *(t.transpose(1, 2).repeat_interleave(R, 1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def cases() -> dict[str, tuple[Run, Run, Inputs, list[int]]]:
    """(on all ranks, alone, whole inputs, tokens of each rank)."""
    torch.manual_seed(0)
    together, alone = sequence_parallel.recurrence, recurrence.recurrence_reference
    scan = (partial(recurrent, together), partial(recurrent, alone))
    write = (partial(delta, together), partial(delta, alone))
    heads = [sample(G * R, K), sample(G, K), sample(G, K)]
    return {
        "no decay": (*scan, operands(), EVEN),
        "decay of a head": (*scan, [*operands(), decay(1)], EVEN),
        "decay of a channel": (*scan, [*operands(), decay(K)], EVEN),
        "uneven shares": (*scan, [*operands(), decay(K)], UNEVEN),
        "delta rule": (*write, [*operands(), sample(G)], EVEN),
        "delta rule with decay": (*write, [*operands(), sample(G), decay(1)], UNEVEN),
        "nothing hidden": (sequence_parallel.sum_over_all, recurrence.sum_over_all, operands(), UNEVEN),
        "ring, causal": (
            partial(sequence_parallel.ring_attention, causal=True),
            partial(attention, True),
            heads,
            EVEN,
        ),
        "ring, all pairs": (
            partial(sequence_parallel.ring_attention, causal=False),
            partial(attention, False),
            heads,
            EVEN,
        ),
    }


def one_rank(rank: int, folder: str) -> None:
    """Writes the largest difference of values and of gradients in each case."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timedelta(seconds=30), rank=rank, world_size=RANKS)
    found = {name: differences(rank, *case) for name, case in cases().items()}
    dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def differences(
    rank: int, together: Run, alone: Run, inputs: Inputs, lengths: list[int]
) -> tuple[float, float]:
    whole = [x.requires_grad_() for x in inputs]
    own = [x.detach().split(lengths, 1)[rank].clone().requires_grad_() for x in inputs]
    expected, actual = alone(*whole), together(*own)
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(expected, whole, cotangent)
    found = torch.autograd.grad(actual, own, cotangent.split(lengths, 1)[rank])
    value = (actual - expected.split(lengths, 1)[rank]).abs().max()
    gradients = [(a - b.split(lengths, 1)[rank]).abs().max() for a, b in zip(found, wanted, strict=True)]
    return float(value), float(max(gradients))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[float, float]]]:
    """What each rank says."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(one_rank, (str(folder),), nprocs=RANKS)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", cases())
def test_ranks_compute_together_what_one_process_computes(
    name: str, found: list[dict[str, tuple[float, float]]]
):
    for rank in range(RANKS):
        value, gradient = found[rank][name]
        assert value < 1e-11
        assert gradient < 1e-10
