"""A memory lookup reads one row for each chunk, by the signs of the chunk."""

from itertools import product

import pytest
import torch

from tests.searchspace.ops.identities import assert_equal
from tests.searchspace.ops.projection import projection

DEFINING_TERM = ("F.logsigmoid(2 * wide)", "F.logsigmoid(wide)")


def test_far_from_zero_the_output_is_the_sum_of_the_rows():
    module = projection("memory_lookup", 5, 8, bits=4)
    x = torch.tensor([[1.0, -1, -1, 1, -1, 1, 1, -1]], dtype=torch.float64)
    first, second = 0b1001, 0b0110  # the first channel is the lowest bit
    assert_equal(module(100 * x)[0], module.tables[first] + module.tables[16 + second])


def test_the_confidences_of_all_sign_patterns_sum_to_one():
    module, magnitudes = projection("memory_lookup", 1, 4, bits=4), torch.rand(4, dtype=torch.float64)
    module.tables.data.fill_(1.0)
    logits = [
        sum(s * m for s, m in zip(signs, magnitudes, strict=True)) for signs in product((-1, 1), repeat=4)
    ]
    chosen = module(magnitudes)  # the likeliest of the 16 patterns
    assert_equal(chosen[0], torch.softmax(torch.stack(logits), 0).max())


def test_at_zero_each_channel_halves_the_confidence():
    module = projection("memory_lookup", 1, 4, bits=4)
    module.tables.data.fill_(1.0)
    assert_equal(module(torch.zeros(4, dtype=torch.float64)), torch.tensor([1 / 16]).double())


@pytest.mark.parametrize("inp", [5, 7])
def test_a_chunk_that_is_not_full_reads_as_if_the_rest_were_surely_positive(inp: int):
    short, full = (projection("memory_lookup", 3, n, bits=4) for n in (inp, 8))
    full.load_state_dict(short.state_dict())
    x = torch.randn(6, inp, dtype=torch.float64)
    assert_equal(short(x), full(torch.nn.functional.pad(x, (0, 8 - inp), value=50.0)))


def test_outputs_of_normal_inputs_start_with_about_unit_variance():
    y = projection("memory_lookup", 64, 64, bits=4)(torch.randn(500, 64, dtype=torch.float64))
    assert 0.7 < float(y.detach().var()) < 1.4
