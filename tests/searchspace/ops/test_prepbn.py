"""PRepBN goes from layer normalisation to RepBN, in training and where it is evaluated on the way."""

from typing import Any

import pytest
import torch

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = (
    "1.0 - (tokens.progress - self.warm) / self.share",
    "(tokens.progress - self.warm) / self.share",
)


def both(**more: Any):
    """A PRepBN, and the RepBN that holds its tensors."""
    turning, rep = build("norm", "prepbn", share=0.5, **more), build("norm", "repbn")
    for tensor in turning.state_dict().values():
        tensor.uniform_(0.5, 1.5)
    rep.load_state_dict({name: turning.state_dict()[name] for name in rep.state_dict()})
    return turning, rep


@pytest.mark.parametrize(
    ("progress", "warm", "layer_share"),
    [
        (0.0, 0.0, 1.0),
        (0.125, 0.0, 0.75),
        (0.5, 0.0, 0.0),
        (1.0, 0.0, 0.0),
        (0.25, 0.3, 1.0),
        (0.425, 0.3, 0.75),
    ],
)
@pytest.mark.parametrize(("training", "layer"), [(True, "layernorm"), (False, "rmsnorm")])
def test_the_two_are_mixed_by_progress(
    training: bool, layer: str, progress: float, warm: float, layer_share: float
):
    turning, rep = both(warm=warm, layer=layer)
    x = activations()
    centred = x if layer == "rmsnorm" else x - x.mean(-1, keepdim=True)
    layer_normed = turning.layer_weight * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    layer_normed = layer_normed if layer == "rmsnorm" else layer_normed + turning.layer_bias
    expected = layer_share * layer_normed + (1 - layer_share) * output(rep.train(training), x)
    assert_equal(output(turning.train(training), x, Tokens(progress=progress)), expected)


def test_once_trained_it_is_repbn():
    turning, rep = both()
    x = activations()
    assert torch.equal(output(turning, x), output(rep, x))


def test_it_folds_to_what_repbn_folds_to():
    turning, rep = both()
    folds = [registry.operator("norm", name).fold for name in ("prepbn", "repbn")]
    folded = [fold(m, 1.0) for fold, m in zip(folds, (turning, rep), strict=True) if fold]
    (spec, found), (_, expected) = (pair for pair in folded if pair is not None)
    assert spec.op == "channel_affine"
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_before_it_has_turned_it_folds_to_nothing():
    fold = registry.operator("norm", "prepbn").fold
    assert fold is not None
    assert fold(both()[0], 0.4) is None
    assert fold(both(warm=0.3)[0], 0.7) is None
