"""The Triton delta rule against the recurrence token by token: values, gradients, states, cuts, decode."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.kernels import dispatch
from searchspace.primitives.recurrence import CHUNK, recurrence_chunked, recurrence_reference
from tests.searchspace.kernels import checks_recurrence
from tests.searchspace.kernels.harness import Check, assert_as_accurate, refused

DECAYS = ("none", "scalar")


def inputs(
    sizes: tuple[int, ...], decay: str, strength: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """q, unit k, v, log decay, first state and a write strength between 0 and 2, in float64."""
    B, T, G, R, K, V = sizes
    q, k, v, log_a, S = checks_recurrence.inputs(B, T, G, R, K, V, decay, strength)
    beta = 2 * torch.randn(B, T, G, generator=torch.Generator().manual_seed(T), dtype=torch.float64).sigmoid()
    return q, F.normalize(k, dim=-1), v, log_a, S, beta


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    return recurrence_reference(q, k, v, log_a, S, beta)


def check(
    device: torch.device, sizes: tuple[int, ...], decay: str, dtype: torch.dtype, strength: float = 1.0
) -> None:
    T = sizes[1]

    def chunked(
        q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        o, last = recurrence_chunked(q, k, v, log_a, S.float(), 16 if T < 32 else 32 if T < 64 else 64, beta)
        assert last.dtype == torch.float32
        return o, last

    plain = chunked if dtype == torch.float32 else reference
    assert_as_accurate(chunked, reference, inputs(sizes, decay, strength), dtype, device, plain=plain)


def cut(device: torch.device, decay: str) -> None:
    """A sequence in two parts, then token by token, ends as the whole one does."""
    given = inputs((2, 21, 2, 2, 8, 9), decay)
    q, k, v, S, beta = (t.float().to(device) for t in (*given[:3], *given[4:]) if t is not None)
    log_a = None if given[3] is None else given[3].float().to(device)
    with dispatch.use("triton"), torch.no_grad():
        whole, last = recurrence_chunked(q, k, v, log_a, S, beta=beta)
        outputs = []
        for part in (slice(0, 18), slice(18, 19), slice(19, 20), slice(20, 21)):
            decay_part = None if log_a is None else log_a[:, part]
            o, S = recurrence_chunked(q[:, part], k[:, part], v[:, part], decay_part, S, beta=beta[:, part])
            outputs.append(o)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(S, last, rtol=1e-5, atol=1e-5)


def recall(device: torch.device) -> None:
    """Written with full strength, orthonormal keys answer with their values, however many tokens repeat them."""
    K = 8
    keys = torch.eye(K, device=device).repeat(3, 1).view(1, 3 * K, 1, K)
    values = torch.randn(1, 3 * K, 1, K, generator=torch.Generator().manual_seed(0)).to(device)
    with dispatch.use("triton"):
        strength = torch.ones(1, 3 * K, 1, device=device)
        _, S = recurrence_chunked(keys.unsqueeze(3), keys, values, None, beta=strength)
    torch.testing.assert_close(S[0, 0], values[0, -K:, 0], rtol=1e-5, atol=1e-5)


def refuses(device: torch.device) -> None:
    q, k, v, log_a, _, beta = (
        t.float().to(device) for t in inputs((1, 4, 1, 1, 4, 4), "scalar") if t is not None
    )
    with dispatch.use("triton"), refused("one per key channel"):
        kernel = dispatch.kernel("delta_rule", q.device, q)
        assert kernel is not None
        kernel(q, k, v, log_a.expand(-1, -1, -1, 4), None, CHUNK, beta)


SHAPES = {  # B, T, G, R, K, V
    "ragged": (1, 37, 1, 2, 16, 17),
    "groups": (2, 5, 2, 2, 8, 4),
    "two chunks": (1, 18, 1, 1, 8, 4),
    "long": (1, 131, 1, 1, 16, 16),
    "wide": (1, 70, 1, 2, 80, 65),
}
LARGE = {
    "head 64": (2, 1000, 4, 2, 64, 64),
    "head 128": (2, 1024, 2, 1, 128, 128),
    "head 256": (1, 300, 2, 1, 256, 256),
}
QUICK = ("scalar", "two chunks", torch.float32)

CHECKS = [
    *(
        Check(
            f"delta rule {decay} {name} {str(dtype)[6:]}",
            partial(
                check,
                sizes=sizes,
                decay=decay,
                dtype=dtype,
                strength=checks_recurrence.WEAK if name in LARGE else 1.0,
            ),
            "gpu" if name in LARGE else "quick" if (decay, name, dtype) == QUICK else "slow",
        )
        for decay in DECAYS
        for name, sizes in (SHAPES | LARGE).items()
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ),
    Check(
        "delta rule weak decay",
        partial(
            check,
            sizes=SHAPES["long"],
            decay="scalar",
            dtype=torch.float32,
            strength=checks_recurrence.WEAK,
        ),
        "slow",
    ),
    *(Check(f"delta rule {decay} in parts and steps", partial(cut, decay=decay), "slow") for decay in DECAYS),
    Check("delta rule recalls", recall),
    Check("delta rule refuses a vector decay", refuses),
]
