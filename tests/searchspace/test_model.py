"""The one model: placements, repeats, transitions and blocks that do nothing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import INACTIVE, NONE, ArchSpec, OpSpec
from tests.searchspace.archs import BLOCK, decoder, encoder

FURTHER_TERMS = (("value = run(SHARED_NORM, x)", "value = x", "searchspace/model.py"),)
IDS = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))


def run(model: Model, inputs: Tensor = IDS) -> Tensor:
    logits: Tensor = model(inputs)[0]
    return logits


def built(arch: ArchSpec) -> Model:
    return Model(arch).double().eval()


def test_a_repeated_stage_is_its_blocks_applied_again():
    repeated, unrolled = built(decoder(BLOCK, BLOCK, repeats=2)), built(decoder(BLOCK, BLOCK, BLOCK, BLOCK))
    for i in range(4):
        unrolled.part(f"blocks.{i}").load_state_dict(repeated.part(f"blocks.{i % 2}").state_dict())
    for end in ("stem", "head"):
        unrolled.part(end).load_state_dict(repeated.part(end).state_dict())
    assert torch.equal(run(repeated), run(unrolled))
    assert sorted(k for k in repeated.init_state(1) if "@" in k) == [
        f"blocks.{i}@{r}" for i in (0, 1) for r in (0, 1)
    ]


def test_a_block_of_none_is_the_identity():
    with_gap, without = built(decoder(INACTIVE, BLOCK)), built(decoder(BLOCK))
    without.load_state_dict({n.replace("blocks.1", "blocks.0"): t for n, t in with_gap.state_dict().items()})
    assert torch.equal(run(with_gap), run(without))


@pytest.mark.parametrize("placement", ["pre", "post", "peri", "parallel", "output"])
def test_a_placement_is_its_formula(placement: str):
    model = built(decoder(replace(BLOCK, placement=placement)))
    block, x, facts = model.part("blocks.0"), torch.randn(2, 7, 8, dtype=torch.float64), Tokens()
    expected = x
    for name in ("mixer", "ffn"):
        if placement == "parallel":
            expected = expected + getattr(block, name)(block.shared_norm_in(x, facts)[0], facts)[0]
            continue
        norms = {n.split("_")[-1]: part for n, part in block._modules.items() if n.startswith(f"{name}_norm")}
        f = getattr(block, name)
        if placement == "pre":
            expected = expected + f(norms["in"](expected, facts)[0], facts)[0]
        elif placement == "post":
            expected = norms["post"](expected + f(expected, facts)[0], facts)[0]
        elif placement == "output":
            expected = expected + norms["out"](f(expected, facts)[0], facts)[0]
        else:
            expected = expected + norms["out"](f(norms["in"](expected, facts)[0], facts)[0], facts)[0]
    torch.testing.assert_close(block(x, facts)[0], expected, rtol=0, atol=0)


def test_peri_placement_does_not_see_the_scale_of_a_branch():
    """N_out takes it away again, up to the norm's eps; pre placement shows it."""
    for placement, sees in (("peri", False), ("pre", True)):
        model = built(decoder(replace(BLOCK, placement=placement)))
        before = run(model)
        with torch.no_grad():
            model.part("blocks.0.ffn.down_proj").weight.mul_(100)
            model.part("blocks.0.mixer.o_proj").weight.mul_(100)
        assert bool(torch.allclose(run(model), before, rtol=1e-2, atol=1e-2)) is not sees


def test_two_transitions_halve_the_grid_twice():
    model, seen = built(encoder(8, 16, 24)), []
    for i in range(3):
        model.part(f"blocks.{i}").register_forward_pre_hook(
            lambda _, inputs: seen.append((inputs[1].grid, tuple(inputs[0].shape)))
        )
    assert run(model, torch.rand(2, 1, 8, 8).double()).shape == (2, 10)
    assert seen == [((8, 8), (2, 64, 8)), ((4, 4), (2, 16, 16)), ((2, 2), (2, 4, 24))]


def test_weights_that_do_not_fit_are_named():
    weights = Model(decoder(BLOCK)).state_dict()
    del weights["head.proj.weight"]
    with pytest.raises(RuntimeError, match=r"head\.proj\.weight"):
        Model.from_weights(decoder(BLOCK), weights)


def test_an_unknown_operator_is_named():
    with pytest.raises(ValueError, match=r"unknown norm 'abnorm'; .*known: "):
        Model(decoder(replace(BLOCK, norm=OpSpec("abnorm"))))


def test_without_norms_a_block_is_its_plain_sum():
    model = built(decoder(replace(BLOCK, norm=NONE, mixer=NONE)))
    block, x = model.part("blocks.0"), torch.randn(1, 3, 8, dtype=torch.float64)
    assert torch.equal(block(x, Tokens())[0], x + block.ffn(x, Tokens())[0])
