"""Groups of tokens see themselves alone; other tokens are together in the runs after the first."""

import torch

from searchspace import registry
from searchspace.ops.attention.sliced_group_attention import order_of_run
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.spec.arch import OpSpec
from searchspace.validity import why_op_invalid
from tests.searchspace.ops.identities import HEADS, D, activations, assert_equal, attention, output

DEFINING_TERM = ("y[:, order.argsort()] if run else y", "y")


def grouped(repeats: int = 3, **items: int):
    context = BuildContext(D, causal=False, layout=Layout(64, (8, 8)), repeats=repeats)
    spec = OpSpec.of("sliced_group_attention", **HEADS, **items)
    return registry.build("mixer", spec, context).double().eval()


def test_one_group_is_full_attention_in_every_run():
    module, full, x = grouped(window=10), attention(causal=False), activations(10)
    full.load_state_dict(module.state_dict())
    for run in range(3):
        assert_equal(output(module, x, Tokens(grid=(2, 5), repeat=run)), output(full, x))


def test_each_run_attends_within_its_groups_by_the_order_of_the_run():
    """10 tokens in groups of 3, 3, 3 and 1, of 5 in later runs; orders differ, and stay."""
    module, full, x = grouped(window=3, later_window=5), attention(causal=False), activations(10)
    full.load_state_dict(module.state_dict())
    orders = [order_of_run(10, run, x.device) for run in range(3)]
    assert orders[0].tolist() == list(range(10))
    assert len({tuple(order.tolist()) for order in orders}) == 3
    for run, size in enumerate((3, 5, 5)):
        expected = torch.zeros_like(x)
        for group in orders[run].split(size):
            expected[:, group] = output(full, x[:, group])
        assert_equal(output(module, x, Tokens(grid=(2, 5), repeat=run)), expected)


def test_a_later_window_is_for_stages_that_run_again():
    spec = OpSpec.of("sliced_group_attention", **HEADS, window=4, later_window=2)
    reason = why_op_invalid("mixer", spec, BuildContext(D, causal=False, layout=Layout(64, (8, 8))))
    assert reason is not None
    assert "repeats = 1" in reason
