"""Channel affine normalises nothing."""

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("torch.addcmul(shift, x, scale)", "x * scale")


def test_it_is_the_identity_before_training_and_affine_after():
    affine, x = build("norm", "channel_affine"), activations()
    assert_equal(output(affine, x), x)
    affine.scale.data.normal_()
    affine.shift.data.normal_()
    assert_equal(output(affine, x), x * affine.scale + affine.shift)
