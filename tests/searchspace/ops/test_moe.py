"""Mixture of experts: the paper's sum, token by token; what a bias may change; what is counted."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nas.export.graph import trace
from searchspace.cost import part_cost
from searchspace.model import Model
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.spec.arch import BlockSpec, OpSpec
from searchspace.spec.plain import plain_attention
from searchspace.validity import why_op_invalid
from tests.searchspace.archs import decoder
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = (
    "(scores.detach() + self.router_bias.detach()).topk(self.k)",
    "(scores.detach() + self.router_bias.detach()).topk(self.k, largest=False)",
)
SETTINGS: dict[str, Any] = {"num_experts": 6, "top_k": 2, "d_expert": 5, "d_shared": 7, "routing": "sigmoid"}


def moe(**more: Any) -> Any:
    torch.manual_seed(0)
    module = build("ffn", "moe", **SETTINGS | more)
    module.router_bias.data.normal_(0.0, 0.2)
    if module.has_shift:
        module.router_shift.data.normal_()
    return module


def swiglu(x: torch.Tensor, gate: Any, up: Any, down: Any, limit: float) -> torch.Tensor:
    u, v = gate.weight @ x, up.weight @ x
    if not limit:
        return down.weight @ (F.silu(u) * v)
    u, v = torch.where(u > limit, limit, u), torch.where(v.abs() > limit, limit * v.sign(), v)
    return down.weight @ (u / (1 + torch.exp(-1.702 * u)) * (1 + v))


def written_out(module: Any, x: torch.Tensor) -> torch.Tensor:
    """One token after the other, with scores, choice and weights as the papers print them."""
    y = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            token = x[b, t]
            logits = module.router_weight @ token + (module.router_shift if module.has_shift else 0)
            s = 1 / (1 + torch.exp(-logits)) if module.is_sigmoid else logits.exp() / logits.exp().sum()
            biased = (s + module.router_bias).view(module.groups, -1)
            worth = biased.sort(descending=True).values[:, :2].sum(1) if module.groups > 1 else biased.sum(1)
            biased[worth.argsort(descending=True)[module.chosen_groups :]] = -torch.inf
            chosen = biased.flatten().argsort(descending=True)[: module.k].tolist()
            total = sum(s[i] for i in chosen) if module.k > 1 else 1.0
            for i in chosen:
                expert = module.experts[i]
                part = swiglu(token, expert.gate, expert.up, expert.down, module.limit)
                y[b, t] += module.scale * s[i] / total * part
            if module.has_shared:
                share = torch.sigmoid(module.shared_gate_weight @ token) if module.gates_shared else 1.0
                parts = module.gate_proj, module.up_proj, module.down_proj
                y[b, t] += share * swiglu(token, *parts, module.limit)
    return y


def test_it_is_the_sum_of_the_papers():
    x = activations(20)
    for more in (
        {"scale": 2.5},
        {"routing": "softmax", "d_shared": 0},
        {"top_k": 1},
        {"top_k": 6},
        {"shared_gate": True},
        {"limit": 0.3},
        {"limit": 0.3, "d_shared": 0, "routing": "softmax", "router_shift": True},
        {"groups": 3, "chosen_groups": 2, "top_k": 3},
    ):
        module = moe(**more)
        expected = written_out(module, x)
        torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
        single = output(module.float(), x.float())
        torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_graph_of_all_experts_computes_the_same():
    module, rows = moe(), activations(20).flatten(0, 1)
    chosen, weights = module.route(rows)
    assert_equal(module.all_experts(rows, chosen, weights), module.chosen_experts(rows, chosen, weights))


@pytest.mark.slow
def test_a_network_with_experts_is_a_graph_for_every_number_and_length_of_sequences():
    torch.manual_seed(0)
    mixer = plain_attention(1, 1, 4)
    block = BlockSpec(mixer, OpSpec.of("moe", **SETTINGS), OpSpec("rmsnorm"))
    model = Model(decoder(block)).eval()
    found = trace(model, torch.randint(11, (2, 10)))
    ids = torch.randint(11, (3, 7))
    assert found.length is None
    torch.testing.assert_close(found.program.module()(ids), model(ids)[0], rtol=1e-4, atol=1e-4)


def test_each_token_alone_is_what_it_is_in_a_batch_that_wants_one_expert():
    """None is dropped, however many want the same."""
    module, x = moe(), activations(20)
    module.router_bias.data[3] = 10.0
    y = output(module, x)
    alone = [output(module, x[b : b + 1, t : t + 1]) for b in range(2) for t in range(20)]
    assert_equal(torch.cat(alone).view_as(y), y)
    assert (module.route(x.flatten(0, 1))[0] == 3).any(1).all()


def test_the_bias_changes_the_choice_and_never_the_weight_of_what_is_chosen():
    module, rows = moe(), activations(20).flatten(0, 1)
    module.router_bias.data.zero_()
    module.router_bias.data[2] = 10.0
    chosen, weights = module.route(rows)
    s = torch.sigmoid(rows @ module.router_weight.T).gather(1, chosen)
    assert (chosen == 2).any(1).all()
    assert_equal(weights, s / s.sum(1, keepdim=True))


def test_the_gradient_of_the_bias_is_the_excess_of_load_of_real_tokens():
    module, x = moe().train(), activations(20)
    valid = torch.arange(20).expand(2, 20) < 15
    y = module(x, Tokens(valid=valid))[0]
    (gradient,) = torch.autograd.grad(y.square().sum(), module.router_bias)
    chosen = module.route(x[valid])[0]
    loads = torch.stack([(chosen == i).any(1).double().mean() for i in range(6)])
    assert_equal(gradient, 1e-3 * (loads - loads.mean()))


def test_training_makes_the_experts_equally_busy():
    """All tokens want two experts at first; the loss has no say in it."""
    module, x = moe(top_k=1).train(), activations(64)
    module.router_bias.data.zero_()
    module.router_bias.data[:2] = 0.6
    optimizer = torch.optim.AdamW([module.router_bias], lr=0.02, weight_decay=0.0)

    def busiest() -> float:
        loads = torch.bincount(module.route(x.flatten(0, 1))[0].flatten(), minlength=6)
        return float(loads.max() / loads.sum())

    before = busiest()
    for _ in range(60):
        optimizer.zero_grad()
        module(x, Tokens())[0].mul(0.0).sum().backward()
        optimizer.step()
    assert before > 0.45
    assert busiest() < 0.25


def test_a_token_uses_the_parameters_of_k_experts():
    """Of each expert three matrices D x 5, of the shared one D x 7; the router and its bias are always used."""
    spec = OpSpec.of("moe", **SETTINGS)
    found = part_cost("ffn", spec, BuildContext(D), 10, 10, 4)
    rest = 3 * D * 7 + 6 * D + 6
    assert (found.parameters, found.active_parameters) == (6 * 3 * D * 5 + rest, 2 * 3 * D * 5 + rest)
    assert (found.weight_bytes, found.active_weight_bytes) == (
        4 * found.parameters,
        4 * found.active_parameters,
    )
    assert found.flops == 2 * 10 * (2 * 3 * D * 5 + 3 * D * 7 + 6 * D)


def test_more_choices_than_experts_are_refused():
    refusal = why_op_invalid("ffn", OpSpec.of("moe", **SETTINGS | {"top_k": 7}), BuildContext(D)) or ""
    assert "top_k = 7" in refusal
    assert "num_experts = 6" in refusal
