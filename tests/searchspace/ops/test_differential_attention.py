"""Differential attention: the second map is taken from the first."""

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("first - self.weight() * second", "first")


@torch.no_grad()
def test_of_two_equal_maps_the_direction_of_plain_attention_is_left():
    module, x = build("mixer", "differential_attention", **HEADS), activations()
    plain = attention(head_dim=4)
    for name in ("q_proj", "k_proj"):
        weight = getattr(module, name).weight
        weight[1::2] = weight[0::2]
    plain.load_state_dict({n: t for n, t in module.state_dict().items() if "proj" in n})
    q, k, v = plain.queries_keys_values(x)
    both = plain.attend(q / 2**0.5, k, v, torch.arange(9), None)  # both maps at once, each with half the sum
    sign = torch.sign(1 - module.weight())
    expected = F.rms_norm((1 - module.weight()).abs() * both, (4,), None, 1e-5) * sign
    assert_equal(output(module, x), plain.merge_heads((1 - module.first_weight) * expected))


def test_the_weight_of_the_second_map_starts_lower_in_the_first_layers():
    module = build("mixer", "differential_attention", **HEADS)
    assert abs(module.first_weight - 0.2) < 1e-12
    with torch.no_grad():
        for n in ("q1", "k1", "q2", "k2"):
            getattr(module, f"lambda_{n}").zero_()
    assert abs(module.weight().item() - 0.2) < 1e-12
