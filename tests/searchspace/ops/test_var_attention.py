"""Sinks give weight to the image."""

from typing import Any

import torch

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output
from tests.searchspace.ops.visual import (
    HEADS,
    assert_equals_reference_and_decodes,
    assert_is_softmax_attention_without_an_image,
    plain_of,
    sequence,
)

DEFINING_TERM = ("visual & ~sink, sink", "visual, sink")
CALIBRATE: Any = registry.operator("mixer", "var_attention").calibrate


def var(scale: float, causal: bool = True) -> Any:
    module = build("mixer", "var_attention", causal, **HEADS, sink_scale=scale)
    module.sink_channels[:2] = 1.0
    return module


def image_with_sinks() -> tuple[torch.Tensor, Tokens]:
    x, tokens = sequence()
    x[:, :, :2] *= 0.1
    x[:, (0, 5), 1] = 10.0  # a text token and a visual one
    return x, tokens


def test_without_an_image_or_with_nothing_taken_it_is_softmax_attention():
    for causal in (True, False):
        (x, tokens), module = image_with_sinks(), var(1.0, causal)
        assert_equal(output(module, x, tokens), output(plain_of(module, causal), x))
        assert_is_softmax_attention_without_an_image(var(0.6, causal), causal)


def test_with_an_image_it_equals_its_reference_and_decodes():
    with torch.no_grad():
        assert_equals_reference_and_decodes(var(0.6), "var_attention", *image_with_sinks())


def test_rows_still_sum_to_one_and_only_visual_keys_gain():
    x, tokens = image_with_sinks()
    module = var(0.6)
    weights, rows, _ = module.map(x, tokens)
    assert rows["sink"].nonzero().tolist() == [[b, j] for b in (0, 1) for j in (0, 5)]
    changed = module.reweighed(weights, rows)
    assert_equal(changed.sum(-1), weights.sum(-1))
    gains = changed - weights
    assert (gains > 1e-9).any()
    assert not (gains > 1e-12)[~rows["visual"][:, None, None, :].expand_as(gains)].any()
    assert not gains[rows["visual"][:, None, :, None].expand_as(gains)].any()


def test_calibration_finds_the_channels_with_the_outliers():
    module, x = build("mixer", "var_attention", **HEADS, sink_scale=0.6), activations(9)
    x[0, 3, 7], x[1, 0, 10] = 100.0, -80.0
    CALIBRATE(module, [(x, Tokens())])
    assert module.sink_channels.nonzero().flatten().tolist() == [7, 10]
