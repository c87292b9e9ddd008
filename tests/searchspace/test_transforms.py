"""A rewritten network computes what the one before computes, or the rewriting says why it can't."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from searchspace.fold import fold
from searchspace.model import Model
from searchspace.primitives.axes import declared_tensors
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec
from searchspace.transforms import fold_affine, pre_crms, pre_rms
from tests.searchspace.archs import ATTENTION, BLOCK, DENSE, MLP, decoder, encoder

IDS = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))
LAYERNORM = OpSpec("layernorm")
PRE_LN = replace(BLOCK, norm=LAYERNORM)
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


@pytest.mark.parametrize(
    "block",
    [
        PRE_LN,
        replace(PRE_LN, projection=OpSpec.of("low_rank", rank_ratio=0.5)),
        replace(PRE_LN, projection=OpSpec.of("dense", bias=True)),
        replace(PRE_LN, ffn=NONE),
    ],
    ids=["dense", "low_rank", "bias", "attention_only"],
)
@pytest.mark.parametrize("position", [NONE, OpSpec("learned"), OpSpec.of("rope", base=10000, dim=4)], ids=str)
def test_a_pre_ln_network_is_a_pre_rmsnorm_network(block: BlockSpec, position: OpSpec):
    before = trained(replace(decoder(block, block, block, norm=LAYERNORM), position=position))
    after = pre_rms(before, IDS)
    assert {b.norm.op for b in after.arch.blocks} | {after.arch.final_norm.op} == {"rms_affine"}
    assert_same(after, before)


def test_a_vision_network_of_one_width_converts_too():
    arch = replace(encoder(8, block=PRE_LN), final_norm=LAYERNORM, position=OpSpec("learned"))
    before, images = trained(arch), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    after = pre_rms(before, images)
    torch.testing.assert_close(after(images)[0], before(images)[0], rtol=1e-10, atol=1e-10)


def without_final_shift(model: Model) -> Model:
    model.get_parameter("final_norm.bias").detach().zero_()
    return model


@pytest.mark.parametrize("projection", [DENSE, OpSpec.of("dense", bias=True)], ids=str)
@pytest.mark.parametrize("position", [NONE, OpSpec("learned"), OpSpec.of("rope", base=10000, dim=4)], ids=str)
def test_a_pre_ln_network_is_a_pre_crmsnorm_network_of_one_channel_less(projection: OpSpec, position: OpSpec):
    block = replace(PRE_LN, projection=projection)
    arch = replace(decoder(block, block, replace(block, ffn=NONE), norm=LAYERNORM), position=position)
    before = without_final_shift(trained(arch))
    after = pre_crms(before, IDS)
    assert after.arch.d_model == before.arch.d_model - 1
    assert {b.norm.op for b in after.arch.blocks} | {after.arch.final_norm.op} == {"crms"}
    assert_same(after, before)


def test_a_stream_that_is_read_by_more_than_dense_maps_keeps_its_channels():
    low_rank = replace(PRE_LN, projection=OpSpec.of("low_rank", rank_ratio=0.5))
    with pytest.raises(ValueError, match=r"blocks\.0 reads the stream by low_rank"):
        pre_crms(without_final_shift(trained(decoder(low_rank, norm=LAYERNORM))), IDS)
    with pytest.raises(ValueError, match="the final norm has a shift"):
        pre_crms(trained(decoder(PRE_LN, norm=LAYERNORM)), IDS)


def test_without_centring_the_two_norms_differ():
    before = trained(decoder(PRE_LN, norm=LAYERNORM))
    norm = OpSpec("rms_affine")
    swapped = replace(before.arch, blocks=(replace(PRE_LN, norm=norm),), final_norm=norm)
    after = Model.from_weights(swapped, before.state_dict()).eval()
    assert (logits(after) - logits(before)).abs().max() > 0.1


def test_centring_keeps_its_network_in_training():
    """The norms do not see the mean, so nothing that trains through them does."""
    before = trained(decoder(PRE_LN, norm=LAYERNORM))
    after = pre_rms(before, IDS)
    cotangent = torch.randn_like(logits(before))
    for model in (before, after):
        model.requires_grad_()
        logits(model).backward(cotangent)
    for name in ("blocks.0.mixer.q_proj", "blocks.0.ffn.up_proj", "head.proj"):
        torch.testing.assert_close(
            after.part(name).weight.grad, before.part(name).weight.grad, rtol=1e-9, atol=1e-9
        )


def refusal(arch: ArchSpec) -> str:
    with pytest.raises(ValueError, match="no Pre-RMSNorm form: ") as raised:
        pre_rms(trained(arch), IDS)
    return str(raised.value).removeprefix("no Pre-RMSNorm form: ")


def test_what_is_no_pre_ln_network_is_refused_with_its_place():
    peri = replace(PRE_LN, placement="peri")
    wanted = "it takes layernorm in pre placement"
    assert (
        refusal(decoder(PRE_LN, peri, norm=LAYERNORM))
        == f"blocks.1 has layernorm in peri placement, {wanted}"
    )
    assert refusal(decoder(BLOCK, norm=LAYERNORM)) == f"blocks.0 has rmsnorm in pre placement, {wanted}"
    assert refusal(decoder(PRE_LN)) == "final_norm is none, it takes layernorm"


def test_a_writer_whose_mean_is_not_in_its_weights_is_refused():
    pooled = replace(PRE_LN, mixer=POOLING)
    expected = "blocks.1.mixer writes a mean over the channels that is not in its weights"
    assert refusal(decoder(PRE_LN, pooled, norm=LAYERNORM)) == expected


def test_a_transition_reads_the_stream_itself():
    arch = replace(encoder(8, 16, block=PRE_LN), final_norm=LAYERNORM)
    assert refusal(arch) == "stage 1: q_pooling reads the residual stream without a layernorm"


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
