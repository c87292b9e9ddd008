"""A rewritten network computes what the one before computes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from searchspace.fold import fold, fold_affine
from searchspace.model import Model
from searchspace.primitives.axes import declared_tensors
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec
from tests.searchspace.archs import ATTENTION, BLOCK, DENSE, MLP, decoder

IDS = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))
POOLING = OpSpec.of("pooling", window=3)


@torch.no_grad()
def trained(arch: ArchSpec) -> Model:
    """Random weights also where a network starts at 0 or 1."""
    model = Model(arch).double().eval()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, declared in declared_tensors(model):
        noise = torch.randn_like(tensors[name])
        tensors[name].add_(noise.abs() if declared.role == "statistic" else 0.5 * noise)
    return model


def logits(model: Model) -> Tensor:
    y: Tensor = model(IDS)[0]
    return y


def assert_same(after: Model, before: Model) -> None:
    torch.testing.assert_close(logits(after), logits(before), rtol=1e-10, atol=1e-10)


FOLDABLE = [OpSpec(op) for op in ("channel_affine", "repbn", "unified_norm", "batchnorm")]
FOLDABLE.append(OpSpec.of("prepbn", share=0.5))


@pytest.mark.parametrize("norm", FOLDABLE, ids=str)
def test_a_norm_with_stored_statistics_vanishes_into_the_maps_behind_it(norm: OpSpec):
    block = BlockSpec(ATTENTION, MLP, norm, DENSE)
    before = trained(decoder(block, block))
    after = fold_affine(fold(before), IDS)
    assert {b.norm for b in after.arch.blocks} == {NONE}
    assert not any("_norm_" in name for name in after.state_dict())
    assert_same(after, before)


def test_other_blocks_and_the_final_norm_stay():
    affine = replace(BLOCK, norm=OpSpec("channel_affine"))
    before = trained(decoder(affine, BLOCK, norm=OpSpec("channel_affine")))
    after = fold_affine(before, IDS)
    assert (after.arch.blocks[1], after.arch.final_norm.op) == (BLOCK, "channel_affine")
    assert_same(after, before)


@pytest.mark.parametrize(
    "change",
    [
        {"mixer": POOLING},
        {"placement": "post"},
        {"projection": OpSpec.of("low_rank", rank_ratio=0.5)},
    ],
    ids=["pooling", "post", "low_rank"],
)
def test_an_affine_that_feeds_more_than_dense_maps_stays_while_others_go(change: dict[str, Any]):
    affine = replace(BLOCK, norm=OpSpec("channel_affine"))
    other = replace(affine, **change)
    before = trained(decoder(other, affine, other))
    after = fold_affine(before, IDS)
    assert [b.norm.op for b in after.arch.blocks] == ["channel_affine", "none", "channel_affine"]
    assert_same(after, before)
    alone = trained(decoder(other))
    assert fold_affine(alone, IDS) is alone
