"""On channels of mean 0 it is LayerNorm; otherwise it is not."""

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = ("self.weight, EPS) + self.bias", "self.weight, EPS)")


def test_it_is_layernorm_where_the_mean_is_0():
    module, x = build("norm", "rms_affine"), activations()
    with torch.no_grad():
        module.weight.add_(torch.randn(D))
        module.bias.add_(torch.randn(D))
    centred = x - x.mean(-1, keepdim=True)
    expected = F.layer_norm(x, (D,), module.weight, module.bias, 1e-5)
    assert_equal(output(module, centred), expected)
    assert not torch.allclose(output(module, x), expected)
