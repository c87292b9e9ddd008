"""Softmax attention: windows, sinks and groups are settings of one formula."""

from typing import Any

import pytest
import torch

from searchspace import registry
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.scores import Visibility
from searchspace.spec.arch import OpSpec
from searchspace.spec.plain import plain_attention
from searchspace.validity import why_op_invalid
from tests.searchspace.ops.identities import activations, assert_equal, attention, output

DEFINING_TERM = ("is_causal=self.causal", "is_causal=False")
FURTHER_TERMS = (
    ("y * torch.sigmoid(gates)", "y * gates", "searchspace/ops/attention/softmax_attention.py"),
    (
        "self.sink_logits.to(scores.dtype)",
        "0 * self.sink_logits",
        "searchspace/ops/attention/softmax_attention.py",
    ),
    ("self.cap * torch.tanh(scores / self.cap)", "scores", "searchspace/ops/attention/softmax_attention.py"),
    ("self.K)), k, k\n", "self.K)), k, 0 * k\n", "searchspace/ops/attention/softmax_attention.py"),
)


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_as_long_as_the_sequence_is_full_attention(causal: bool):
    full, x = attention(causal), activations(9)
    windowed = attention(causal, window=9 if causal else 18)
    windowed.load_state_dict(full.state_dict())
    assert_equal(output(windowed, x), output(full, x))


def test_grouped_queries_are_multi_head_attention_with_repeated_keys_and_values():
    grouped, x = attention(num_groups=2, heads_per_group=2), activations()
    heads = attention(num_groups=4, heads_per_group=1)
    weights = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        weights[name] = weights[name].view(2, 1, 4, -1).expand(2, 2, 4, -1).reshape(16, -1)
    heads.load_state_dict(weights)
    assert_equal(output(heads, x), output(grouped, x))


def test_one_group_has_one_key_and_value_head():
    multi_query = attention(num_groups=1, heads_per_group=4)
    assert multi_query.k_proj.weight.shape[0] == multi_query.v_proj.weight.shape[0] == 4
    assert multi_query.q_proj.weight.shape[0] == 16


def test_constant_values_come_out_whatever_the_scores():
    """Rows of weights sum to 1."""
    module, x = attention(), activations()
    with torch.no_grad():
        module.v_proj.weight.zero_()
        module.v_proj.weight[:, 0] = torch.arange(8.0)
    x[..., 0] = 1.0
    expected = module.per_head(torch.arange(8.0, dtype=torch.float64).view(1, 1, 2, 4)).flatten()
    assert_equal(output(module, x), module.o_proj(expected).expand(2, 9, -1))


def test_a_token_outside_the_window_is_seen_only_as_a_sink():
    x = activations(9)
    for sinks, is_seen in ((0, False), (1, True)):
        module, y = attention(window=3, sinks=sinks), x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(output(module, y)[:, 8].sum(), y)
        assert bool(gradient[:, 0].any()) is is_seen
        assert not gradient[:, 1:6].any()
        assert gradient[:, 6:].any(-1).all()


@pytest.mark.parametrize(
    "rule", [Visibility(True, 3, 2), Visibility(True, 4), Visibility(False, 5), Visibility(True)]
)
def test_visible_keys_are_those_of_the_rule_one_by_one(rule: Visibility):
    places = torch.arange(8)
    found = rule.mask(places, places)
    for i in range(8):
        for j in range(8):
            near = not rule.window or (i - j < rule.window if rule.causal else abs(i - j) <= rule.window // 2)
            assert bool(found[i, j]) == ((near or j < rule.sinks) and (j <= i or not rule.causal))


def test_a_row_that_sees_nothing_is_zero():
    x, valid = activations(4), torch.tensor([[False, False, True, True]] * 2)
    assert not output(attention(), x, Tokens(valid=valid))[:, :2].any()


def test_a_batch_padded_on_the_left_decodes_as_its_sequences_do_alone():
    for items in ({}, {"window": 3}, {"score_bias": OpSpec("alibi")}, {"normalizer": OpSpec("sigmoid")}):
        module, x, lengths = attention(**items), activations(12), (12, 9)
        valid = torch.stack([torch.arange(12) >= 12 - n for n in lengths])
        state = module.init_state(2, x.device, x.dtype)
        y, state = module(x[:, :7], Tokens(valid=valid[:, :7]), state)
        outputs = [y]
        for t in range(7, 12):
            y, state = module(x[:, t : t + 1], Tokens(), state)
            outputs.append(y)
        found = torch.cat(outputs, 1)
        for b, n in enumerate(lengths):
            alone = output(module, x[b : b + 1, 12 - n :])
            torch.testing.assert_close(found[b : b + 1, 12 - n :], alone, rtol=1e-6, atol=1e-6)
        assert not found[1, :3].any()


def test_sinks_that_are_padding_are_refused():
    module, x = attention(window=3, sinks=2), activations(6)
    valid = torch.arange(6) >= torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match=r"sinks=2 .* padding"):
        module(x, Tokens(valid=valid), module.init_state(2, x.device, x.dtype))


@torch.no_grad()
def test_a_temperature_without_weights_is_attention_without_a_temperature():
    for kind in ("query", "query_value"):
        module, plain, x = attention(temperature=kind), attention(), activations()
        module.temperature.position_weight.fill_(-torch.inf)
        plain.load_state_dict({n: w for n, w in module.state_dict().items() if "temperature" not in n})
        assert_equal(output(module, x), output(plain, x))


@torch.no_grad()
def test_attention_grows_sharper_with_the_place_of_the_query():
    """With sigmoid(a) = 1 and no token part, query i is multiplied by 1 + log(i + 1)."""
    module, plain, x = attention(temperature="query"), attention(), activations()
    module.temperature.position_weight.fill_(torch.inf)
    plain.load_state_dict({n: w for n, w in module.state_dict().items() if "temperature" not in n})
    q, k, v = plain.queries_keys_values(x)
    tau = 1 + torch.arange(1.0, 10.0).double().log()
    expected = plain.attend(q * tau.view(1, 9, 1, 1), k, v, torch.arange(9), None)
    torch.testing.assert_close(output(module, x), plain.merge_heads(expected), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_decoding_counts_places_from_the_start_of_the_sequence():
    module, x = attention(temperature="query"), activations()
    module.temperature.position_weight.fill_(1.0)
    _, state = module(x[:, :8], Tokens(), module.init_state(2, x.device, x.dtype))
    assert_equal(module(x[:, 8:], Tokens(), state)[0], output(module, x)[:, 8:])


@torch.no_grad()
def test_the_value_temperature_of_a_token_scales_what_it_says():
    module, x = attention(temperature="query_value"), activations(1)
    module.temperature.value_weight.normal_()
    before = output(attention_of(module, "none"), x)
    assert_equal(
        output(module, x), before * (1 + torch.tanh(x @ module.temperature.value_weight)).unsqueeze(-1)
    )


def attention_of(module: Any, temperature: str) -> Any:
    """The same weights, another temperature."""
    other = attention(temperature=temperature)
    other.load_state_dict({n: w for n, w in module.state_dict().items() if "temperature" not in n})
    return other


SETTINGS: list[dict[str, Any]] = [
    {"output_gate": "element", "sink_logit": True},
    {"output_gate": "head", "logit_softcap": 0.5, "score_bias": OpSpec("alibi")},
    {"tied_values": True, "rotary": "none"},
    {"sink_logit": True, "window": 4, "sinks": 2, "value_residual": True},
]


@torch.no_grad()
@pytest.mark.parametrize("items", SETTINGS)
def test_options_equal_their_formula_pair_by_pair_and_decode_as_they_are_computed(items: dict[str, Any]):
    module, x = attention(**items), activations()
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    expected = by_hand(module, items, x)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
    in_float = output(module.float(), x.float())
    torch.testing.assert_close(in_float, expected.float(), rtol=1e-5, atol=1e-5)
    module, state, steps = module.double(), module.init_state(2, x.device, x.dtype), []
    for t in (slice(0, 4), slice(4, 5), slice(5, 8), slice(8, 9)):
        y, state = module(x[:, t], Tokens(), state)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, 1), output(module, x), rtol=1e-9, atol=1e-9)
    held = sum(t.nbytes for t in state.values() if isinstance(t, torch.Tensor))
    said = registry.operator("mixer", "softmax_attention").state_bytes(module, 9, 8)
    assert (
        held
        == 2 * said
        == 8 * 2 * (9 if "window" not in items else 5) * 8 * (1 if "tied_values" in items else 2)
    )


def by_hand(module: Any, items: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """[B, 9, D], head by head and query by query."""
    weight = {name: w.double() for name, w in module.state_dict().items()}
    y = torch.zeros(2, 9, 16, dtype=torch.float64)
    for b, h, i in ((b, h, i) for b in range(2) for h in range(4) for i in range(9)):
        rows, group = slice(4 * h, 4 * h + 4), slice(h // 2 * 4, h // 2 * 4 + 4)
        q, k = weight["q_proj.weight"][rows] @ x[b, i], x[b] @ weight["k_proj.weight"][group].T
        v = k if "tied_values" in items else x[b] @ weight["v_proj.weight"][group].T
        scores = k @ q / 2
        if "logit_softcap" in items:
            scores = items["logit_softcap"] * torch.tanh(scores / items["logit_softcap"])
        if "score_bias" in items:
            scores = scores - 2.0 ** (-8 * (h + 1) / 4) * (i - torch.arange(9))
        seen = [j for j in range(i + 1) if i - j < items.get("window", 9) or j < items.get("sinks", 0)]
        weights = scores[seen].exp()
        total = weights.sum() + (weight["sink_logits"][h].exp() if "sink_logit" in items else 0)
        y[b, i, rows] = weights @ v[seen] / total
        if items.get("output_gate") == "element":
            y[b, i, rows] *= torch.sigmoid(weight["gate_proj.weight"][rows] @ x[b, i])
        if items.get("output_gate") == "head":
            y[b, i, rows] *= torch.sigmoid(weight["head_gate_proj.weight"][h] @ x[b, i])
    return y @ weight["o_proj.weight"].T


def test_a_very_negative_sink_logit_is_no_sink():
    module, plain, x = attention(sink_logit=True), attention(), activations()
    plain.load_state_dict({n: w for n, w in module.state_dict().items() if n != "sink_logits"})
    with torch.no_grad():
        module.sink_logits.fill_(-1e4)
    torch.testing.assert_close(output(module, x), output(plain, x), rtol=1e-9, atol=1e-9)


def test_options_that_contradict_each_other_are_refused_with_both_named():
    where = BuildContext(12)
    for items, words in (
        ({"sink_logit": True, "normalizer": OpSpec("sigmoid")}, ("sink_logit", "sigmoid")),
        ({"keys": "earlier", "value_residual": True}, ("value_residual", "earlier")),
        ({"rotary_share": 0.4}, ("rotary_share = 0.4", "8 channels")),
        ({"rotary_share": 0.25, "head_dim": 4}, ("rotary_share = 0.25", "4 channels")),
    ):
        spec = OpSpec.of("softmax_attention", **dict(plain_attention(2, 2, 8).items) | items)
        reason = why_op_invalid("mixer", spec, where)
        assert reason is not None, items
        assert all(word in reason for word in words), reason
