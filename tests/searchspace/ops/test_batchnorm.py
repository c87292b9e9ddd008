"""Batch normalisation is an affine map once its statistics are stored."""

import torch
from torch.nn import functional as F

from searchspace import registry
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("self.bias - mean * scale", "self.bias", "searchspace/primitives/norms.py")


def test_it_is_torchs_batch_norm_in_training_and_in_evaluation():
    norm, x = build("norm", "batchnorm"), 3 * activations() + 1
    rows, kept = x.flatten(0, 1), (norm.mean.normal_(), norm.variance.uniform_(0.5, 2.0))
    for tensor in (norm.weight.data, norm.bias.data):
        tensor.normal_()
    affine = norm.weight, norm.bias
    assert_equal(output(norm, x).flatten(0, 1), F.batch_norm(rows, *kept, *affine))
    expected = F.batch_norm(rows, None, None, *affine, training=True)
    assert_equal(output(norm.train(), x).flatten(0, 1), expected)


def test_it_equals_its_folded_form():
    norm, x = build("norm", "batchnorm"), activations()
    norm.mean.normal_()
    norm.variance.uniform_(0.5, 2.0)
    fold = registry.operator("norm", "batchnorm").fold
    assert fold is not None
    folded = fold(norm, 1.0)
    assert folded is not None
    spec, weights = folded
    affine = build("norm", spec.op)
    affine.load_state_dict(weights)
    assert_equal(output(affine, x), output(norm, x))
    assert torch.equal(weights["shift"], norm.bias - norm.mean * weights["scale"])
