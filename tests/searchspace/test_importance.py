"""Ordering by importance changes no function, and importance is what the output loses."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.supernet.importance import ordered, saliency

D, W = 12, 9
ATTENTION = plain_attention(2, 3, 4, OpSpec("qk_rms"))
SWIGLU, MLP = OpSpec.of("swiglu", d_ff=10), OpSpec.of("mlp", d_ff=10, activation=OpSpec("gelu_erf"))
HIDDEN = OpSpec.of("embedding", pooling="none", normalize=False)


def network(
    *ffns: OpSpec,
    mixer: OpSpec = ATTENTION,
    task: str = "causal_lm",
    head: OpSpec | None = None,
    repeats: int = 2,
) -> Model:
    """In float64 with random weights, biases included."""
    block = BlockSpec(mixer, norm=OpSpec("rmsnorm"), projection=OpSpec.of("dense", bias=True))
    arch = ArchSpec(
        task=task,
        stem=OpSpec.of("token_embedding", vocab_size=W, max_len=16),
        d_model=D,
        blocks=tuple(replace(block, ffn=ffn) for ffn in ffns),
        stages=(StageSpec(len(ffns), D, repeats=repeats),),
        position=OpSpec.of("rope", base=100, dim=4),
        head=head or OpSpec.of("tied_head", vocab_size=W),
    )
    model = Model(arch).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return model


def batches(model: Model) -> list[tuple[Tensor, Tokens]]:
    valid = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    return [(torch.randint(0, W, (2, 7)), Tokens(valid=valid)), (torch.randint(0, W, (3, 4)), Tokens())]


def test_the_ordered_model_computes_the_same_and_its_first_units_matter_most():
    model = network(SWIGLU, MLP)
    data = batches(model)
    found = saliency(model, data)
    assert {name: tuple(s.shape) for name, s in found.items()} == {
        f"blocks.{i}.{part}": shape for i in range(2) for part, shape in (("mixer", (2, 3)), ("ffn", (10,)))
    } | {"channels": (D,)}
    permuted = Model.from_weights(model.arch, ordered(model, found)).eval()
    inputs = torch.randint(0, W, (2, 7))
    torch.testing.assert_close(permuted(inputs)[0], model(inputs)[0], rtol=1e-12, atol=1e-12)
    last = saliency(permuted, data)["blocks.1.ffn"]
    descending = found["blocks.1.ffn"].sort(descending=True).values
    torch.testing.assert_close(last, descending, rtol=1e-5, atol=1e-7)


def test_units_end_up_in_descending_order():
    model = network(MLP)
    given = {"blocks.0.ffn": torch.arange(10.0), "blocks.0.mixer": torch.tensor([[0.0, 3, 1], [9, 5, 7]])}
    tensors, before = ordered(model, given), model.state_dict()
    up, q = "blocks.0.ffn.up_proj.weight", "blocks.0.mixer.q_proj.weight"
    assert torch.equal(tensors[up], before[up].flip(0))
    heads = before[q].view(2, 3, 4, D)
    expected = torch.stack((heads[1][[0, 2, 1]], heads[0][[1, 2, 0]]))
    assert torch.equal(tensors[q].view(2, 3, 4, D), expected)
    k = "blocks.0.mixer.k_proj.bias"
    assert torch.equal(tensors[k].view(2, 4), before[k].view(2, 4).flip(0))


@pytest.mark.parametrize("ffn", [MLP, SWIGLU])
def test_importance_is_the_squared_change_of_what_is_asked_where_nothing_follows_the_unit(ffn: OpSpec):
    """The output is linear in what a unit of the last block hands on, so taking it out is its first-order change."""
    model = network(ffn, mixer=NONE, task="embedding", head=HIDDEN, repeats=1)
    inputs = torch.randint(0, W, (3, 5))
    found = saliency(model, [(inputs, Tokens())], seed=4)["blocks.0.ffn"]
    along = torch.randn((3, 5, D), generator=torch.Generator().manual_seed(4)).double()
    whole, weight = model(inputs)[0], model.part("blocks.0").ffn.down_proj.weight
    for unit in range(10):
        with torch.no_grad():
            kept = weight[:, unit].clone()
            weight[:, unit] = 0
            change = ((whole - model(inputs)[0]) * along).sum((1, 2))
            weight[:, unit] = kept
        torch.testing.assert_close(found[unit], change.square().sum().float(), rtol=1e-5, atol=1e-7)


def test_classes_are_drawn_as_often_as_the_network_expects_them():
    """The mean over many draws is the Fisher information: sum_c p_c (a d log p_c / da)^2 for each unit."""
    model, count = network(MLP, mixer=NONE, repeats=1), 20_000
    word = torch.tensor([[3]])
    found = saliency(model, [(word.expand(count, 1), Tokens())])["blocks.0.ffn"] / count
    handed: list[Tensor] = []
    projection = model.part("blocks.0").ffn.down_proj
    with projection.register_forward_pre_hook(lambda _, given: handed.append(given[0])):
        log_p = torch.log_softmax(model(word)[0][0, 0], -1)
    (a,) = handed
    of_class = [torch.autograd.grad(value, a, retain_graph=True)[0][0, 0] for value in log_p]
    changes = torch.stack(of_class) * a[0, 0]
    exact = (log_p.exp().unsqueeze(1) * changes.square()).sum(0)
    torch.testing.assert_close(found, exact.float(), rtol=0.1, atol=1e-5)


def test_padding_counts_for_nothing():
    model = network(MLP)
    valid = torch.tensor([[True] * 4 + [False] * 3])
    short = torch.randint(0, W, (1, 7))
    other = torch.cat((short[:, :4], torch.randint(0, W, (1, 3))), 1)
    one, two = (saliency(model, [(x, Tokens(valid=valid))], seed=2) for x in (short, other))
    for name, scores in one.items():
        torch.testing.assert_close(two[name], scores, rtol=1e-5, atol=1e-7)
