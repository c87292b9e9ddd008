"""RepBN normalises over the batch in training and is an affine map afterwards."""

import torch

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("scale + self.eta, shift", "scale, shift", "searchspace/primitives/norms.py")


def random_repbn():
    module = build("norm", "repbn")
    for tensor in (module.weight.data, module.bias.data, module.eta.data, module.mean):
        tensor.normal_()
    module.variance.uniform_(0.5, 2.0)
    return module


def test_after_training_it_equals_its_folded_form():
    module, x = random_repbn(), activations()
    fold = registry.operator("norm", "repbn").fold
    assert fold is not None
    folded = fold(module, 1.0)
    assert folded is not None
    spec, weights = folded
    affine = build("norm", spec.op)
    affine.load_state_dict(weights)
    assert_equal(output(affine, x), output(module, x))


def test_in_training_channels_have_no_mean_and_unit_variance_but_for_the_identity():
    module, x = build("norm", "repbn").train(), 3 * activations(200) + 5
    normalised = (output(module, x) - module.eta * x).flatten(0, 1)
    assert normalised.mean(0).abs().max() < 1e-10
    torch.testing.assert_close(normalised.var(0, correction=0), torch.ones(12).double(), rtol=1e-4, atol=0)


def test_statistics_are_returned_and_not_stored():
    module, x = random_repbn().train(), activations()
    before = module.mean.clone(), module.variance.clone()
    _, update = module(x, Tokens())
    assert torch.equal(module.mean, before[0])
    assert torch.equal(module.variance, before[1])
    assert_equal(update["mean"], x.flatten(0, 1).mean(0))
    assert_equal(update["variance"], x.flatten(0, 1).var(0, correction=0))


def test_with_its_statistics_stored_evaluation_equals_training():
    module, x = random_repbn().train(), activations()
    y, update = module(x, Tokens())
    module.mean.copy_(update["mean"])
    module.variance.copy_(update["variance"])
    assert_equal(output(module.eval(), x), y)
