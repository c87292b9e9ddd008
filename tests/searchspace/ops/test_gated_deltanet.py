"""Gated DeltaNet between DeltaNet and no memory."""

from typing import Any

import torch
from torch.nn import functional as F

from searchspace.contracts.cases import CAUSAL, Case
from searchspace.contracts.decoding import a_prompt_may_come_in_pieces, state_bytes_are_the_bytes_held
from searchspace.contracts.flops import flops_of_a_sequence_are_those_that_torch_counts
from searchspace.contracts.reference import fast_form_equals_reference
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output
from tests.searchspace.ops.written_out import delta_rule, heads, rms, short_conv, unit

DEFINING_TERM = (
    "turn = turn if log_a is None else turn * log_a[:, t].exp().unsqueeze(-2)",
    "turn = turn",
    "searchspace/primitives/delta.py",
)
SETTINGS: dict[str, Any] = {
    "num_groups": 2,
    "heads_per_group": 2,
    "head_dim": 4,
    "conv_taps": 2,
    "beta_max": 1,
}


def test_without_fading_it_is_deltanet_behind_a_gate():
    gated, plain = build("mixer", "gated_deltanet", **SETTINGS), build("mixer", "deltanet", **SETTINGS)
    torch.nn.init.constant_(gated.log_rate, -1e4)
    plain.load_state_dict({n: t for n, t in gated.state_dict().items() if n in plain.state_dict()})
    x = activations(20)
    for module in (gated, plain):
        module.o_proj = torch.nn.Identity()
    assert_equal(output(gated, x), output(plain, x) * F.silu(gated.gate_proj(x)))


def test_a_state_that_fades_at_once_sees_what_the_convolution_sees():
    module, x = build("mixer", "gated_deltanet", **SETTINGS), activations(20)
    torch.nn.init.constant_(module.log_rate, 10.0)
    torch.nn.init.constant_(module.step_bias, 10.0)
    assert_equal(output(module, x)[:, 9], output(module, x[:, 8:10])[:, 1])


def test_the_step_starts_between_a_thousandth_and_a_tenth():
    module = build("mixer", "gated_deltanet", **SETTINGS)
    expected = torch.tensor([1e-3, 1e-1], dtype=torch.float64)
    torch.testing.assert_close(F.softplus(module.step_bias), expected, rtol=1e-4, atol=0)


def test_with_wide_and_grouped_values_it_is_the_loop_of_the_paper():
    """Every value head of a key has a strength, a decay and a state of its own."""
    torch.manual_seed(0)
    settings = SETTINGS | {"heads_per_group": 1, "conv_taps": 4}
    for M, E in ((2, 1), (1, 2), (3, 2)):
        module = build("mixer", "gated_deltanet", **settings, values_per_key=M, expand_v=E)
        for tensor in module.parameters():
            tensor.data.add_(torch.randn_like(tensor), alpha=0.3)
        x = activations(20)
        mixed = [short_conv(projection(x), conv.weight) for _, projection, conv in module.paths()]
        q, k = (unit(heads(t, 2)).repeat_interleave(M, 2) for t in mixed[:2])
        step = F.softplus(x @ module.wide_step_weight.T + module.wide_step_bias)
        a = torch.exp(-module.wide_log_rate.exp() * step).unsqueeze(-1).expand(-1, -1, -1, 4)
        beta = torch.sigmoid(x @ module.wide_beta_weight.T)
        o = module.wide_norm_weight * rms(delta_rule(q, k, heads(mixed[2], 2 * M), a, beta))
        expected = module.wide_o_proj(o.flatten(2) * F.silu(module.wide_gate_proj(x)))
        assert o.shape[-1] == 4 * E
        torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)


def test_wide_and_grouped_values_keep_the_contracts():
    spec = OpSpec.of("gated_deltanet", **SETTINGS | {"head_dim": 8}, values_per_key=2, expand_v=2)
    kept = (
        fast_form_equals_reference,
        a_prompt_may_come_in_pieces,
        state_bytes_are_the_bytes_held,
        flops_of_a_sequence_are_those_that_torch_counts,
    )
    for contract in kept:
        contract(Case("mixer", spec, CAUSAL))


def test_saying_the_sizes_of_the_plain_form_computes_the_plain_form():
    plain = build("mixer", "gated_deltanet", **SETTINGS)
    said = build("mixer", "gated_deltanet", **SETTINGS, values_per_key=1, expand_v=1)
    weights = plain.state_dict()
    said.load_state_dict({n: weights[n.removeprefix("wide_")] for n in said.state_dict()})
    x = activations(20)
    assert_equal(output(said, x), output(plain, x))
