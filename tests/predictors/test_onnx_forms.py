"""Forms of operations that ONNX has no other of."""

from __future__ import annotations

import pytest
import torch

from predictors.onnx_forms import solve_triangular


@pytest.mark.parametrize("C", [1, 2, 3, 16, 37, 64])
def test_the_solve_of_the_delta_rule_in_products_is_the_solve(C: int) -> None:
    """Also for keys that are nearly alike, whose powers grow to 1e18 where their inverse stays below 10."""
    generator = torch.Generator().manual_seed(C)
    k = torch.randn(2, C, 8, generator=generator, dtype=torch.float64) + 5
    k = torch.nn.functional.normalize(k, dim=-1)
    u = torch.randn(2, C, 5, generator=generator, dtype=torch.float64)
    for strength in (0.5, 1.0, 2.0):
        L = strength * (k @ k.mT).tril()  # what stands on the diagonal does not count
        solved = torch.linalg.solve_triangular(L, u, upper=False, unitriangular=True)
        for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
            found = solve_triangular(L.to(dtype), u.to(dtype), upper=False, unitriangular=True)
            torch.testing.assert_close(found.double(), solved, rtol=tolerance, atol=tolerance)
