"""Each token runs a prefix of the learners, whatever the other tokens of the batch choose."""

import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("chosen.flip(-1).cumsum(-1).flip(-1)[..., 1:]", "chosen[..., 1:]")
GELU = OpSpec("gelu")


def acm():
    return build("ffn", "acm", num_learners=4, learner_width=6, activation=GELU)


def always(module, width: int):
    """Let every token whose first channel is positive choose this width."""
    module.choice.data.zero_()
    module.choice.data[width, 0] = 1.0
    return module


def test_the_whole_width_is_the_dense_ffn_and_a_prefix_the_narrower_one():
    module, x = acm(), activations().abs()
    for width in (1, 4):
        mlp = build("ffn", "mlp", d_ff=6 * width, activation=GELU)
        mlp.up_proj.weight.data.copy_(module.learner_up.weight[: 6 * width])
        mlp.down_proj.weight.data.copy_(module.learner_down.weight[:, : 6 * width])
        assert_equal(output(always(module, width), x), output(mlp, x))
    assert not output(always(module, 0), x).any()


def test_the_rest_of_the_batch_has_no_influence():
    module, x = acm(), 5 * activations(20)
    y = output(module, x)
    assert len(set((x @ module.choice.T).argmax(-1).flatten().tolist())) > 2
    alone = [output(module, x[b : b + 1, t : t + 1]) for b in range(2) for t in range(20)]
    assert_equal(torch.cat(alone).view_as(y), y)


def test_training_computes_the_same_and_teaches_the_gate():
    module, x = acm(), activations()
    evaluated = output(module, x)
    (none,) = torch.autograd.grad(evaluated.sum(), module.choice, allow_unused=True)
    trained = output(module.train(), x)
    assert_equal(trained, evaluated)
    assert none is None
    assert torch.autograd.grad(trained.sum(), module.choice)[0].any()
