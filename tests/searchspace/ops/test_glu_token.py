"""A token GLU mixes the tokens of each channel by weights of their places."""

import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("self.activation(gate) * up", "self.activation(gate) + up")


def mixer(activation: str = "gelu"):
    return build("mixer", "glu_token", causal=False, num_hidden=16, activation=OpSpec(activation))


def test_it_is_the_gated_unit_of_each_channel_as_a_vector_of_tokens():
    module, x = mixer("silu"), activations(9, B=1)
    glu = build("ffn", "glu", d_ff=16, activation=OpSpec("silu"), hidden_norm=False)
    for name in ("gate", "up", "down"):
        weight = getattr(module, f"token_{name}").data
        getattr(glu, f"{name}_proj").weight.data = weight[:9] if name == "down" else weight[:, :9]
    assert_equal(output(module, x), output(glu, x.mT).mT)


def test_channels_do_not_meet_and_places_differ():
    module, x, order = mixer(), activations(), torch.randperm(9).roll(1)
    channels = torch.randperm(x.shape[-1])
    assert_equal(output(module, x[..., channels]), output(module, x)[..., channels])
    assert not torch.allclose(output(module, x[:, order]), output(module, x)[:, order])
