"""The XSS block: the directions of its scan are those of a turned image."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.cross_scan import scan_order
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = (
    "order = places.view(grid).T.flatten() if direction >= 2 else places",
    "order = places",
    "searchspace/primitives/cross_scan.py",
)
GRID, TURNED = Tokens(grid=(3, 5)), Tokens(grid=(5, 3))


def xss(directions: int) -> Any:
    return build("mixer", "xss", causal=False, expand=1, num_states=4, directions=directions, kernel_size=3)


def silence(module: Any) -> None:
    """Leaves the scan alone: no local part, and a convolution that is the identity."""
    torch.nn.init.zeros_(module.local_down_proj.weight)
    with torch.no_grad():
        module.cross_scan.conv.weight.zero_()
        module.cross_scan.conv.weight[:, 0, 0] = 1.0


def test_the_orders_are_rows_columns_and_their_reverses():
    found = [scan_order(d, (2, 3), torch.device("cpu")).tolist() for d in range(4)]
    assert found == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [0, 3, 1, 4, 2, 5], [5, 2, 4, 1, 3, 0]]


def test_exchanging_the_scans_of_rows_and_columns_transposes_the_image():
    module, x = xss(4), activations(15)
    silence(module)
    before = output(module, x, GRID).view(2, 3, 5, D).transpose(1, 2).flatten(1, 2)
    scans = module.cross_scan.scans
    scans[0], scans[1], scans[2], scans[3] = scans[2], scans[3], scans[0], scans[1]
    image = x.view(2, 3, 5, D).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(output(module, image, TURNED), before, rtol=1e-9, atol=1e-9)


def test_one_direction_sees_only_what_came_before():
    module, x = xss(1), activations(15).requires_grad_()
    silence(module)
    (gradient,) = torch.autograd.grad(output(module, x, GRID)[:, 7].sum(), x)
    assert gradient[:, :8].any(-1).all()
    assert not gradient[:, 8:].any()


def test_without_the_scan_it_is_the_local_part():
    module, x = xss(4), activations(15)
    torch.nn.init.zeros_(module.cross_scan.inner_down_proj.weight)
    assert_equal(output(module, x, GRID), module.mixed(module.local_conv(x, GRID)[0]))
