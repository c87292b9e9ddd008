"""Channel affine normalises nothing."""

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("torch.addcmul(shift, x, scale)", "x * scale")


def test_it_is_the_identity_before_training_and_affine_after():
    affine, x, z = build("norm", "channel_affine"), activations(), activations()
    assert_equal(output(affine, x), x)
    affine.scale.data.normal_()
    affine.shift.data.normal_()
    between = output(affine, 0.3 * x + 0.7 * z)
    assert_equal(between, 0.3 * output(affine, x) + 0.7 * output(affine, z))
