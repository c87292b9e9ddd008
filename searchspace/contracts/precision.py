"""In bfloat16 an operator's error stays within what its formula implies, and its gradients are finite.

The bound: rounding the inputs and weights, by u = 2^-9 each, changes the exact output by s (relative, in the norm). The
computation also rounds its inputs, intermediates and result, so that 3 (u + s) is allowed. Where a choice jumps between
two values (a nearest code, the largest score), s does not see the jump; there twice the error of the plain formula in
bfloat16 is allowed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import contract

ON_TOKENS = ("mixer", "ffn", "norm", "projection", "transition")
ROUNDING = 2.0**-9  # relative, of 8 significant bits rounded to nearest
TIMES_ROUNDED = 3


@contract(*ON_TOKENS)
@torch.no_grad()
def bfloat16_errs_as_little_as_its_rounding_allows(case: Case) -> None:
    module, (x, facts) = case.build(), cases.inputs(case, 48)
    exact = cases.run(case, module, x, facts)
    module, x = module.to(torch.bfloat16), x.to(torch.bfloat16)
    y = cases.run(case, module, x, facts)
    plain = cases.run_reference(case, module, x, facts) if case.entry.reference else None
    rounded = cases.run(case, module.double(), x.double(), facts)  # exact, from rounded numbers
    assert y.dtype == torch.bfloat16, f"the output of bfloat16 inputs is {y.dtype}"
    allowed = TIMES_ROUNDED * (ROUNDING + distance(exact, rounded))
    if plain is not None:
        allowed = max(allowed, 2 * distance(plain, rounded))
    error = distance(y, rounded)
    assert error <= allowed, f"the relative error in bfloat16 is {error:.2g}, more than {allowed:.2g}"


def distance(y: Tensor, truth: Tensor) -> float:
    """Return the relative distance |y - truth| / |truth| of tensors [...]."""
    return float((y.double() - truth).norm() / truth.norm())


@contract(*ON_TOKENS)
def gradients_are_finite_also_for_one_token_and_large_activations(case: Case) -> None:
    module = case.build().to(torch.bfloat16)
    sizes = (4, 16) if case.slot == "transition" else (1, 2, 21)
    for T in sizes:
        for scale in (1.0, 100.0):
            x, facts = cases.inputs(case, T, batch_size=1)
            x = (scale * x).to(torch.bfloat16).requires_grad_()
            y = cases.run(case, module, x, facts)
            where = f"for {T} tokens of size {scale:g} in bfloat16"
            assert y.isfinite().all(), f"the output is not finite {where}"
            leaves = [x, *module.parameters()]
            gradients = torch.autograd.grad(
                y.float().sum(), leaves, allow_unused=True, materialize_grads=True
            )
            assert all(g.isfinite().all() for g in gradients), f"a gradient is not finite {where}"
