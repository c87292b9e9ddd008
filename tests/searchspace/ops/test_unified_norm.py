"""Unified normalisation divides each channel by its quadratic mean over the batch, and is an affine map afterwards."""

import torch
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("square().mean(0) + EPS", "var(0) + EPS")


def random_norm():
    module = build("norm", "unified_norm")
    for tensor in module.state_dict().values():
        tensor.normal_()
    return module


def test_in_training_channels_have_unit_quadratic_mean_whatever_their_mean():
    x = 3 * activations(200) + 5
    y = output(build("norm", "unified_norm").train(), x)
    torch.testing.assert_close(y.square().mean((0, 1)), torch.ones(12).double(), rtol=1e-4, atol=0)
    assert y.mean() > 0.5


def test_before_a_projection_it_folds_into_its_weight_and_bias():
    norm, x, weight = random_norm(), activations(), torch.randn(5, 12, dtype=torch.float64)
    fold = registry.operator("norm", "unified_norm").fold
    assert fold is not None
    simpler = fold(norm, 1.0)
    assert simpler is not None
    spec, affine = simpler
    assert spec.op == "channel_affine"
    folded = F.linear(x, weight * affine["scale"], weight @ affine["shift"])
    assert_equal(folded, F.linear(output(norm, x), weight))


def test_averaged_updates_give_the_geometric_mean_of_the_batches():
    norm, batches = random_norm().train(), [activations(), 3 * activations()]
    updates = [norm(x, Tokens())[1]["log_second_moment"] for x in batches]
    norm.log_second_moment.copy_(torch.stack(updates).mean(0))
    first, second = (x.square().mean((0, 1)) + 1e-5 for x in batches)
    expected = norm.weight * batches[0] / (first * second) ** 0.25 + norm.bias
    assert_equal(output(norm.eval(), batches[0]), expected)
