"""Sinks in chosen heads give weight to the other keys."""

from typing import Any

import torch

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("1 + (1 - self.sink_scale) * sink_mass", "1 + sink_mass")
CALIBRATE: Any = registry.operator("mixer", "act_attention").calibrate


def act(scale: float, causal: bool = True, chosen: float = 1.0) -> Any:
    module = build("mixer", "act_attention", causal, **HEADS, sink_scale=scale)
    module.calibrated_heads.fill_(chosen)
    return module


def plain_of(module: Any, causal: bool = True) -> Any:
    plain = attention(causal)
    plain.load_state_dict({n: w for n, w in module.state_dict().items() if n != "calibrated_heads"})
    return plain


def test_it_is_softmax_attention_where_nothing_is_taken_or_no_head_is_chosen():
    for causal in (True, False):
        for module in (act(1.0, causal), act(0.4, causal, chosen=0.0)):
            x = activations()
            assert_equal(output(module, x), output(plain_of(module, causal), x))


def test_rows_still_sum_to_one_and_every_sink_keeps_its_share():
    module, x = act(0.4), activations()
    weights, rows, _ = module.map(x, Tokens())
    changed, sinks = module.reweighed(weights, rows), module.sinks(weights, rows)
    assert sinks.any()
    assert not sinks[..., 0].any()
    assert_equal(changed.sum(-1), torch.ones(2, 4, 9).double())
    assert_equal(changed[sinks], 0.4 * weights[sinks])
    assert (changed[~sinks] >= weights[~sinks]).all()


def test_decoding_remembers_how_much_weight_each_key_has_had():
    module, x = act(0.4), activations(12)
    valid = torch.arange(12) >= torch.tensor([[0], [3]])
    state, outputs = module.init_state(2, x.device, x.dtype), []
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        y, state = module(x[:, part], Tokens(valid=valid[:, part]), state)
        outputs.append(y)
    assert_equal(torch.cat(outputs, 1)[valid], output(module, x, Tokens(valid=valid))[valid])


def test_the_head_with_the_largest_sink_is_chosen():
    """Keys of one head all point to the second token, the other's are all zero."""
    module = build("mixer", "act_attention", num_groups=2, heads_per_group=1, head_dim=4, sink_scale=0.4)
    x = torch.ones(1, 40, 12).double()
    x[:, 1, 0] = 50.0
    with torch.no_grad():
        module.q_proj.weight.fill_(0.1)
        module.k_proj.weight.zero_()
        module.k_proj.weight[4:, 0] = 1.0
    CALIBRATE(module, [(x, Tokens())])
    assert module.calibrated_heads.tolist() == [0.0, 1.0]


def test_a_row_with_next_to_nothing_beside_its_sinks_stays_as_it_is_and_has_gradients():
    """In float32 the quotient overflows: its square does at 1e-20 already."""
    module = act(0.4)
    scores = torch.zeros(1, 4, 8, 8).tril()
    scores[..., 1] = 60.0
    scores = scores.masked_fill(~torch.ones(8, 8).bool().tril(), -1e9).requires_grad_()
    weights = scores.softmax(-1)
    changed = module.reweighed(weights, {"mass": torch.zeros(1, 8, 4, 1)})
    changed.square().sum().backward()
    assert module.sinks(weights, {"mass": torch.zeros(1, 8, 4, 1)})[..., 2:, 1].all()
    assert_equal(changed[..., 2:, :], weights[..., 2:, :])
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
