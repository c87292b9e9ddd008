"""An encoder in whole numbers: as near to the float one as its codes are fine; what has no such form is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.quantization import integer_network as integer
from searchspace.quantization.integer_network import integer_network, why_not_integer
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from tests.searchspace.archs import DENSE, TEXT
from tests.searchspace.quantization.networks import relative_error

IDS = torch.arange(64).view(4, 16) * 7 % 11
BATCHES = [(IDS, Tokens())]


def bert(placement: str = "post", **changes: Any) -> ArchSpec:
    mlp = OpSpec.of("mlp", d_ff=64, activation=OpSpec("gelu_erf"))
    block = replace(
        BlockSpec(plain_attention(2, 1, 16), mlp, OpSpec("layernorm"), DENSE, placement), **changes
    )
    head = OpSpec.of("embedding", normalize=True, pooling="mean")
    return ArchSpec(
        "embedding",
        TEXT,
        32,
        (block, block),
        (StageSpec(2, 32),),
        head,
        position=OpSpec("learned_norm"),
        final_norm=OpSpec("layernorm" if placement == "pre" else "none"),
    )


def trained(arch: ArchSpec) -> Model:
    torch.manual_seed(0)
    model = Model(arch).eval().requires_grad_(False)
    for name, tensor in model.named_parameters():
        tensor.add_(torch.randn(tensor.shape), alpha=0.2 if "norm" in name else 0.1)
    return model


@pytest.mark.parametrize("placement", ["pre", "post", "peri"])
def test_an_encoder_in_whole_numbers_is_near_the_one_in_floating_point(placement: str):
    """Eight bits for inputs, queries and weights: parts of a hundred for two blocks."""
    model = trained(bert(placement))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    exact, found = model(IDS)[0], integer_network(model, BATCHES)(IDS)[0]
    assert 0 < relative_error(found, exact) < 0.05
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_finer_codes_come_nearer_until_the_polynomials_err(monkeypatch: pytest.MonkeyPatch):
    model = trained(bert())
    exact, errors = model(IDS)[0], []
    for bits in (5, 8, 14):
        monkeypatch.setattr(integer, "WEIGHT_BITS", bits)
        monkeypatch.setattr(integer, "QUERY_BITS", bits)
        errors.append(relative_error(integer_network(model, BATCHES)(IDS)[0], exact))
    assert errors[0] > errors[1] > errors[2]


def test_norms_gelu_and_softmax_give_multiples_of_their_scale():
    network = integer_network(trained(bert()), BATCHES)
    block = network.part("blocks.0")
    scores = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    visible = torch.ones(16, 16, dtype=torch.bool).tril()
    weights = block.mixer.normalizer(scores, visible)
    assert torch.equal(weights * 2**8, (weights * 2**8).round())
    assert not weights[..., ~visible].any()
    assert ((weights.sum(-1) > 0.9) & (weights.sum(-1) <= 1)).all()
    x = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    q = block.mixer.q_proj(x)
    step = block.mixer.q_proj.largest / 127
    torch.testing.assert_close(q / step, (q / step).round(), rtol=0, atol=1e-4)
    assert int((q / step).abs().max().round()) <= 127


def test_ranges_are_those_of_the_calibration_and_padding_belongs_to_none():
    model = trained(bert())
    valid = torch.arange(16) < torch.tensor([16, 9, 5, 1])[:, None]
    wild = torch.where(valid, IDS, 10)
    one = integer_network(model, [(IDS, Tokens(valid=valid))])
    other = integer_network(model, [(wild, Tokens(valid=valid))])
    ranges = [p.largest for p in one.modules() if isinstance(p, integer.Ranged)]
    assert ranges == [p.largest for p in other.modules() if isinstance(p, integer.Ranged)]
    one(torch.full((1, 32), 3))
    assert ranges == [p.largest for p in one.modules() if isinstance(p, integer.Ranged)]


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_token_does_not_depend_on_what_else_is_in_the_batch(placement: str):
    """Mates far outside the calibration data, and padding, leave its numbers bitwise as they are."""
    network = integer_network(trained(bert(placement)), BATCHES)
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    block, wild = network.part("blocks.0"), torch.cat((x[:1], 50 * x[1:]))
    for given in (Tokens(), Tokens(valid=torch.arange(16).expand(2, 16) < torch.tensor([[16], [3]]))):
        assert torch.equal(block(wild, given)[0][0], block(x, Tokens())[0][0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"norm": OpSpec("rmsnorm")}, "blocks.0: rmsnorm has no form in whole numbers; layernorm has"),
        (
            {"ffn": OpSpec.of("swiglu", d_ff=64)},
            "blocks.0: swiglu has no form in whole numbers; mlp with gelu",
        ),
        ({"mixer": OpSpec.of("pooling", window=3)}, "blocks.0: pooling has no form in whole numbers"),
    ],
)
def test_what_has_no_form_in_whole_numbers_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str):
    arch = bert(**changes)
    assert (why_not_integer(arch) or "").startswith(sentence)
    with pytest.raises(ValueError, match="has no form in whole numbers"):
        integer_network(trained(arch), BATCHES)
