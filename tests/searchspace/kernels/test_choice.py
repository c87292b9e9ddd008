"""What "auto" takes by a table, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from predictors import cuda
from searchspace.kernels import dispatch
from searchspace.kernels.choice import Asked, Row, file_name, prefers_kernel
from searchspace.primitives.row_norms import rms_norm

ASKED = Asked("rms_norm", "train", "bfloat16", 16384, 1024)
TABLE = [Row(ASKED, 1.5), Row(replace(ASKED, width=8192), 0.7)]


@pytest.mark.parametrize(
    ("asked", "is_taken"),
    [
        (ASKED, True),
        (replace(ASKED, rows=4096, width=1536), True),  # the nearest is 1024 wide
        (replace(ASKED, width=8192), False),  # slower there
        (replace(ASKED, rows=16), False),  # too far from any
        (replace(ASKED, width=256), False),
        (replace(ASKED, phase="forward"), False),
        (replace(ASKED, dtype="float32"), False),
        (replace(ASKED, operation="layer_norm"), False),
        (replace(ASKED, rows=0), False),
    ],
)
def test_auto_goes_by_the_nearest_measured_shape_of_the_same_kind(asked: Asked, is_taken: bool) -> None:
    assert prefers_kernel(asked, TABLE) == is_taken


def test_a_row_that_is_as_fast_as_torch_and_no_table_at_all_mean_torch() -> None:
    assert not prefers_kernel(ASKED, [Row(ASKED, 1.01)])
    assert not prefers_kernel(ASKED, [])


def test_a_row_survives_its_file() -> None:
    assert Row.from_json(TABLE[0].to_json()) == TABLE[0]
    assert file_name("NVIDIA H200") == "nvidia-h200.json"


def test_what_is_asked_for_is_the_shape_the_type_and_whether_a_gradient_follows() -> None:
    x, weight = torch.randn(2, 3, 8, requires_grad=True), torch.ones(8)
    with dispatch.use("auto"), dispatch.asked() as found:
        rms_norm(x, weight, 1e-6)
        with torch.no_grad():
            rms_norm(x, weight, 1e-6)
    assert found == [
        Asked("rms_norm", "train", "float32", 6, 8),
        Asked("rms_norm", "forward", "float32", 6, 8),
    ]


def test_on_a_cpu_anything_but_torch_is_refused_with_what_would_do() -> None:
    assert dispatch.why_not("torch", "cpu") is None
    for name in ("triton", "auto"):
        assert "take torch" in str(dispatch.why_not(name, "cpu"))
    assert "torch, triton, auto" in str(dispatch.why_not("cutlass", "cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_the_software_of_a_measurement_is_named_as_before() -> None:
    assert cuda.software("torch") == cuda.software("triton") == ""
