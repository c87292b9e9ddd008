"""A feed-forward network of parameter slots: scores, their norm over the slots, values."""

import math

import torch

from tests.searchspace.ops.identities import activations, build, output

DEFINING_TERM = ('spec["num_slots"] / context.d_model', "1.0")


def test_it_is_the_attention_over_slots_of_the_paper():
    """y = sum_s gelu(sqrt(S) a_s / |a|) v_s with a = K x, at the start, in float64 and in float32."""
    module, x = build("ffn", "pattention_ffn", num_slots=30, scores="l2_gelu"), activations()
    keys, values = module.slots_proj.keys, module.slots_proj.values
    assert keys.shape == (30, 12)
    a = x @ keys.T
    scaled = math.sqrt(30) * a / a.square().sum(-1, keepdim=True).sqrt()
    expected = torch.nn.functional.gelu(scaled, approximate="tanh") @ values.T
    torch.testing.assert_close(output(module, x), expected, rtol=1e-7, atol=1e-7)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)
