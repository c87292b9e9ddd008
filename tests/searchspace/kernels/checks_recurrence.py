"""The Triton recurrence against the recurrence token by token: values, gradients, states, cuts, decode."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.kernels import dispatch
from searchspace.primitives.recurrence import recurrence_chunked, recurrence_reference
from tests.searchspace.kernels.harness import Check, assert_as_accurate, refused

DECAYS = ("none", "scalar", "vector")
WEAK = 1 / 16  # of what would hide, after a few tokens, all that comes from afar


def inputs(
    B: int, T: int, G: int, R: int, K: int, V: int, decay: str, strength: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """q, k, v, log decay and first state, in float64, the same for the same sizes."""
    generator = torch.Generator().manual_seed(T + K)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q, k, v = normal(B, T, G, R, K) / K**0.5, normal(B, T, G, K), normal(B, T, G, V)
    width = {"none": 0, "scalar": 1, "vector": K}[decay]
    log_a = strength * F.logsigmoid(normal(B, T, G, width)) if width else None
    return q, k, v, log_a, normal(B, G, K, V)


def check(
    device: torch.device, sizes: tuple[int, ...], decay: str, dtype: torch.dtype, strength: float = 1.0
) -> None:
    """In float32 torch's chunked form is the same formula; in less torch has none that doesn't widen its operands."""
    B, T, G, R, K, V = sizes
    chunk = 32 if T < 64 else 64

    def chunked(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
        o, last = recurrence_chunked(q, k, v, log_a, S.float(), chunk)
        assert last.dtype == torch.float32
        return o, last

    given = inputs(B, T, G, R, K, V, decay, strength)
    plain = chunked if dtype == torch.float32 else recurrence_reference
    assert_as_accurate(chunked, recurrence_reference, given, dtype, device, plain=plain)


def no_first_state(device: torch.device, decay: str) -> None:
    given = inputs(1, 21, 1, 2, 8, 8, decay)[:4]
    chunked = partial(recurrence_chunked, chunk=16)
    assert_as_accurate(chunked, recurrence_reference, given, torch.float32, device, plain=chunked)


def cut(device: torch.device, decay: str) -> None:
    """A sequence in two parts, then token by token, ends as the whole one does."""
    q, k, v, log_a, S = (
        None if t is None else t.float().to(device) for t in inputs(2, 24, 2, 1, 8, 9, decay)
    )
    assert q is not None
    assert k is not None
    assert v is not None
    with dispatch.use("triton"), torch.no_grad():
        whole, last = recurrence_chunked(q, k, v, log_a, S)
        outputs = []
        for part in (slice(0, 17), slice(17, 22), slice(22, 23), slice(23, 24)):
            decay_part = None if log_a is None else log_a[:, part]
            o, S = recurrence_chunked(q[:, part], k[:, part], v[:, part], decay_part, S)
            outputs.append(o)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(S, last, rtol=1e-5, atol=1e-5)


def fixed_decay(device: torch.device) -> None:
    """A decay that is one number per group is read where it lies, expanded over the tokens."""
    q, k, v, _, S = inputs(2, 20, 2, 1, 8, 8, "none")
    log_a = torch.tensor([-0.5, -0.01], dtype=torch.float64).view(1, 1, 2, 1)

    def expanded(*t: Any) -> tuple[Tensor, Tensor]:
        return recurrence_chunked(t[0], t[1], t[2], t[3].expand(2, 20, -1, -1), t[4])

    def truth(*t: Any) -> tuple[Tensor, Tensor]:
        return recurrence_reference(t[0], t[1], t[2], t[3].expand(2, 20, -1, -1), t[4])

    assert_as_accurate(expanded, truth, (q, k, v, log_a, S), torch.float32, device, plain=expanded)


def in_parts(device: torch.device) -> None:
    """A batch with more heads than a launch can have programs is computed in parts, bit for bit the same."""
    from searchspace.kernels import products, recurrence

    q, k, v, log_a, S = (t.float().to(device) for t in inputs(3, 5, 2, 1, 8, 4, "scalar") if t is not None)
    whole = recurrence.recurrence(q, k, v, log_a, S)
    before, products.LARGEST_GRID = products.LARGEST_GRID, 4  # two sequences of two heads
    try:
        parts = recurrence.recurrence(q, k, v, log_a, S)
    finally:
        products.LARGEST_GRID = before
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def miscompiled(device: torch.device) -> None:
    """The check of a suspected compiler passes what is right, and says what is wrong of a gradient that is not."""
    from searchspace.kernels import delta_rule, recurrence, trouble

    size = [(1, 18, 1, 8)]
    assert trouble.why_wrong("recurrence", recurrence.recurrence, device, size) is None
    assert trouble.why_wrong("delta_rule", delta_rule.delta_rule, device, size) is None

    def wrong(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return recurrence.recurrence(
            q + 0.1 * (q - q.detach()), *rest
        )  # the value is right, its gradient is not

    assert "q is off" in str(trouble.why_wrong("recurrence", wrong, device, size))
    assert trouble.is_suspect("recurrence", "3.6.0", (9, 0))
    assert not trouble.is_suspect("recurrence", "3.7.1", (9, 0))
    assert not trouble.is_suspect("recurrence", "3.6.0", (8, 0))
    assert not trouble.is_suspect("rms_norm", "3.6.0", (9, 0))


def refuses(device: torch.device) -> None:
    """Shapes and dtypes that the kernel does not take are errors, not another implementation."""
    q, k, v, _, _ = (None if t is None else t.to(device) for t in inputs(1, 4, 1, 1, 300, 4, "none"))
    assert q is not None
    assert k is not None
    assert v is not None
    with dispatch.use("triton"):
        for arguments, words in (
            ((q, k, v), "float32, float16 or bfloat16"),
            ((q.float(), k.float(), v.half()), "one for all operands"),
            ((q.float(), k.float(), v.float()), "at most 256, got 300"),
        ):
            with refused(words):
                recurrence_chunked(*arguments, None)


SHAPES = {  # B, T, G, R, K, V
    "ragged": (1, 37, 1, 2, 16, 17),
    "groups": (2, 5, 2, 2, 8, 4),
    "long": (1, 131, 1, 1, 16, 16),
    "wide": (1, 70, 1, 2, 80, 65),
}
LARGE = {
    "head 64": (2, 1000, 4, 2, 64, 64),
    "head 128": (2, 1024, 2, 1, 128, 128),
    "head 256": (1, 300, 2, 1, 256, 256),
}
QUICK = (
    ("none", "groups", torch.float32),
    ("scalar", "ragged", torch.float32),
    ("scalar", "groups", torch.bfloat16),
    ("vector", "ragged", torch.float32),
)

CHECKS = [
    *(
        Check(
            f"recurrence {decay} {name} {str(dtype)[6:]}",
            partial(check, sizes=sizes, decay=decay, dtype=dtype, strength=WEAK if name in LARGE else 1.0),
            "gpu" if name in LARGE else "quick" if (decay, name, dtype) in QUICK else "slow",
        )
        for decay in DECAYS
        for name, sizes in (SHAPES | LARGE).items()
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ),
    *(
        Check(
            f"recurrence {decay} weak decay {str(dtype)[6:]}",
            partial(check, sizes=SHAPES["long"], decay=decay, dtype=dtype, strength=WEAK),
            "slow",
        )
        for decay in ("scalar", "vector")
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *(
        Check(
            f"recurrence {decay} decay of 60",
            partial(check, sizes=SHAPES["ragged"], decay=decay, dtype=torch.float32, strength=60.0),
            "slow",
        )
        for decay in ("scalar", "vector")
    ),
    *(
        Check(f"recurrence {decay} without a first state", partial(no_first_state, decay=decay), "slow")
        for decay in DECAYS
    ),
    *(
        Check(
            f"recurrence {decay} in parts and steps",
            partial(cut, decay=decay),
            "quick" if decay == "scalar" else "slow",
        )
        for decay in DECAYS
    ),
    Check("recurrence fixed decay", fixed_decay),
    Check("recurrence refuses what it cannot do", refuses),
    Check("recurrence in parts of a batch", in_parts),
    Check("recurrence that is miscompiled is found", miscompiled),
]
